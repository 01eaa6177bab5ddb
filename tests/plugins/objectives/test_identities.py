"""Losses that must be one another, in float64: what is the same by algebra is the same to the last digits."""

import math
from typing import Any

import pytest
import torch
from mmalign_objectives.cpo import ContrastivePreferenceOptimization as CPO
from mmalign_objectives.dpo import DirectPreferenceOptimization as DPO
from mmalign_objectives.reward import RewardModelling
from mmalign_objectives.simpo import SimplePreferenceOptimization as SimPO

from mmalign.contract.batch import Batch, Ragged
from mmalign.contract.specs import Role
from mmalign.language.sequences import Sequences
from mmalign.train.roles import build_models
from tests.support.lm_samples import FAMILIES, some_pairs

ROLES = (Role(name="policy", needs=("token_logps",)), Role(name="reference", needs=("token_logps",), trains=False))
K_WAY = ((1.0, 2.0), (1.0, 2.0))


def terms(objective: Any, scores: torch.Tensor, batch: Batch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, its gradient) of log-probabilities or scores [N, 2]."""
    leaf = scores.clone().requires_grad_()
    sums, _ = objective.loss({name: leaf}, batch)
    total = sums.get("preference", sums.get("ranking"))
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def scores() -> torch.Tensor:
    return torch.tensor([[0.3, -1.2], [-2.0, 1.7]], dtype=torch.float64)


def zero_reference() -> Ragged:
    return Ragged.of_lengths(torch.zeros(4, dtype=torch.float64), some_pairs().counts)


@pytest.mark.parametrize("family", FAMILIES)
def test_dpo_at_its_reference_is_ln_2_exactly(load_lm, lm_folders, family) -> None:
    models = build_models(ROLES, load_lm(lm_folders[family]))
    for module in models.modules():
        module.double()
    objective, batch = DPO(DPO.Config()), Batch({"sequences": some_pairs()})
    with torch.no_grad():
        batch = batch.with_columns(**objective.frozen(models, batch))
        sums, metrics = objective.loss(objective.forward(models, batch), batch)
    assert float(sums["preference"]) / objective.count(batch)["preference"] == math.log(2)
    assert float(metrics["accuracy"][0] / metrics["accuracy"][1]) == 0.5


def test_a_ranking_of_two_is_a_pair() -> None:
    pair = Batch({"sequences": some_pairs(), "reference": zero_reference()})
    ranking = pair.with_columns(ranks=K_WAY)
    for objective, name in ((DPO(DPO.Config()), "policy"), (RewardModelling(RewardModelling.Config()), "scores")):
        for found, expected in zip(
            terms(objective, scores(), ranking, name), terms(objective, scores(), pair, name), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_bradley_terry_is_dpo_with_beta_1_and_no_reference() -> None:
    batch = Batch({"sequences": some_pairs(), "reference": zero_reference()})
    dpo = terms(DPO(DPO.Config(beta=1.0)), scores(), batch, "policy")
    reward = terms(RewardModelling(RewardModelling.Config()), scores(), batch, "scores")
    torch.testing.assert_close(dpo, reward, rtol=1e-14, atol=1e-14)


def test_cpo_prefers_as_dpo_with_no_reference() -> None:
    batch = Batch({"sequences": some_pairs(), "reference": zero_reference()})
    dpo = terms(DPO(DPO.Config(beta=0.3)), scores(), batch, "policy")
    cpo = terms(CPO(CPO.Config(beta=0.3)), scores(), batch, "logps")
    torch.testing.assert_close(cpo, dpo, rtol=1e-14, atol=1e-14)


def test_simpo_without_a_margin_is_cpo_where_answers_are_equally_long() -> None:
    ids = torch.arange(3)
    batch = Batch({"sequences": Sequences.from_lists([ids, ids], [[ids + 1, ids + 2], [ids + 3, ids + 4]])})
    simpo = terms(SimPO(SimPO.Config(beta=3.0, gamma=0.0)), scores(), batch, "logps")
    cpo = terms(CPO(CPO.Config(beta=1.0)), scores(), batch, "logps")
    torch.testing.assert_close(simpo, cpo, rtol=1e-14, atol=1e-14)
