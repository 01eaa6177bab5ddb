"""SimPO, ORPO and CPO on a model: their formulas on transformers' log-probabilities, lengths, weights and ties."""

import math
from typing import Any

import pytest
import torch
from mmalign_objectives.cpo import ContrastivePreferenceOptimization as CPO
from mmalign_objectives.orpo import OddsRatioPreferenceOptimization as ORPO
from mmalign_objectives.pairs import pair_metrics
from mmalign_objectives.simpo import SimplePreferenceOptimization as SimPO

from mmalign.contract.batch import Batch
from mmalign.contract.objective import Objective
from mmalign.train.roles import Models
from mmalign.train.step import total_loss
from tests.support.lm_samples import naive_logps, some_pairs


@pytest.fixture
def backbone(load_lm, lm_folders) -> Any:
    loaded = load_lm(lm_folders["tiny_gpt2"])
    loaded.module.double()
    return loaded


def total(objective: Objective, backbone: Any) -> float:
    """What a step minimises, of `some_pairs`."""
    batch = Batch({"sequences": some_pairs()})
    sums, _ = objective.loss(objective.forward(Models({"policy": backbone}, {"policy"}), batch), batch)
    return float(total_loss(sums, objective.count(batch), objective.weights)[0].detach())


def naive(backbone: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(sums, lengths): [N, 2] each, of log-probabilities one answer at a time."""
    pairs = some_pairs()
    lengths = pairs.num_labels()
    with torch.no_grad():
        parts = naive_logps(backbone.module, pairs).split(lengths.tolist())
    return torch.stack([part.sum() for part in parts]).view(-1, 2), lengths.view(-1, 2)


def test_simpo_equals_its_formula(backbone) -> None:
    sums, lengths = naive(backbone)
    rewards = 2.5 * sums / lengths
    expected = -(1 / (1 + torch.exp(-(rewards[:, 0] - rewards[:, 1] - 0.4)))).log().mean()
    assert total(SimPO(SimPO.Config(beta=2.5, gamma=0.4)), backbone) == pytest.approx(float(expected), abs=1e-10)


def test_orpo_equals_its_formula(backbone) -> None:
    sums, lengths = naive(backbone)
    p = (sums / lengths).exp()
    odds = p / (1 - p)
    odds_term = -(1 / (1 + odds[:, 1] / odds[:, 0])).log().mean()
    likelihood = -sums[:, 0].sum() / lengths[:, 0].sum()
    expected = float(likelihood + 0.3 * odds_term)
    assert total(ORPO(ORPO.Config(odds_weight=0.3)), backbone) == pytest.approx(expected, abs=1e-10)


def test_cpo_equals_its_formula(backbone) -> None:
    sums, lengths = naive(backbone)
    preferred = -(1 / (1 + torch.exp(-0.2 * (sums[:, 0] - sums[:, 1])))).log().mean()
    likelihood = -sums[:, 0].sum() / lengths[:, 0].sum()
    expected = float(preferred + 0.7 * likelihood)
    assert total(CPO(CPO.Config(beta=0.2, alpha=0.7)), backbone) == pytest.approx(expected, abs=1e-10)


def test_equal_answers_are_half_a_win() -> None:
    metrics = pair_metrics(torch.tensor([[1.0, 1.0], [2.0, 1.0], [0.0, 4.0]]))
    assert metrics["accuracy"] == (1.5, 3) and float(metrics["margin"][0]) == -3.0
    assert not math.isnan(float(pair_metrics(torch.zeros(0, 2))["margin"][0]))
