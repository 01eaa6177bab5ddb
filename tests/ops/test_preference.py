"""Losses of preferences: gradients by finite differences, and what they are at simple points."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmalign.ops import preference
from mmalign.ops.preference import PAIR_LOSSES, kto, odds_ratio, orpo, simpo

MARGINS = torch.tensor([-7.0, -0.3, 0.2, 1.1, 40.0], dtype=torch.float64)
CHOSEN = torch.tensor([-0.01, -0.5, -2.0, -9.0], dtype=torch.float64)
REJECTED = torch.tensor([-0.7, -0.02, -3.0, -0.1], dtype=torch.float64)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES))
def test_gradients_of_pair_losses(name: str) -> None:
    assert torch.autograd.gradcheck(lambda m: PAIR_LOSSES[name](m, 0.3, 0.1), (_leaf(MARGINS),))


@pytest.mark.parametrize("function", [orpo, odds_ratio])
def test_gradients_of_the_odds_ratio(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(function, (_leaf(CHOSEN), _leaf(REJECTED)))


def test_gradients_of_simpo() -> None:
    assert torch.autograd.gradcheck(lambda m: simpo(m, 2.0, 1.0), (_leaf(MARGINS),))


def test_simpo_and_orpo_equal_their_formulas() -> None:
    sigma = lambda x: 1 / (1 + torch.exp(-x))  # noqa: E731
    margin = MARGINS[:4]
    torch.testing.assert_close(simpo(margin, 2.0, 0.7), -sigma(2 * margin - 0.7).log(), rtol=1e-12, atol=1e-12)
    p, q = CHOSEN.exp(), REJECTED.exp()
    odds = (p / (1 - p)) / (q / (1 - q))
    torch.testing.assert_close(orpo(CHOSEN, REJECTED), -sigma(odds.log()).log(), rtol=1e-10, atol=1e-12)


def test_equal_answers_lose_ln_2() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(preference.sigmoid(zero, 0.1)) == float(simpo(zero, 2.0, 0.0)) == math.log(2)
    assert float(orpo(CHOSEN[:1], CHOSEN[:1])) == math.log(2)


def test_a_margin_of_gamma_over_beta_is_simpos_middle() -> None:
    assert float(simpo(torch.tensor([0.35], dtype=torch.float64), 2.0, 0.7)) == pytest.approx(math.log(2), abs=1e-15)


def test_kto_equals_its_formula_and_has_its_gradient() -> None:
    wanted = torch.tensor([True, False, True, False, True])
    z0 = torch.tensor(0.8, dtype=torch.float64)
    found = kto(MARGINS, wanted, z0, 0.3, 1.5, 0.5)
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    for r, want, loss in zip(MARGINS.tolist(), wanted.tolist(), found.tolist(), strict=True):
        expected = 1.5 * (1 - sigma(0.3 * (r - 0.8))) if want else 0.5 * (1 - sigma(0.3 * (0.8 - r)))
        assert loss == pytest.approx(expected, abs=1e-14)
    assert torch.autograd.gradcheck(lambda r: kto(r, wanted, z0, 0.3, 1.5, 0.5), (_leaf(MARGINS),))
