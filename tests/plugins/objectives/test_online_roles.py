"""Adapters: the reference is the policy without one, and each kind of critic trains and goes on to the same bits."""

from functools import partial

import pytest
import torch

from mmalign.testing.objective_checks import gradients_in_trainable_roles, resume_is_exact
from mmalign.testing.subjects import load, source_of
from mmalign.testing.trainer import build_trainer
from tests.support.online_samples import MODEL, naive

pytestmark = pytest.mark.usefixtures("one_thread")

pytest.importorskip("peft", reason="adapters need peft")
LORA = {"lora": {"rank": 2}}


@pytest.mark.parametrize(("kind", "backbone"), [("head", {}), ("copy", {}), ("head", LORA), ("adapter", LORA)])
def test_each_critic_trains_and_resumes(bench, kind, backbone) -> None:
    entry = bench.catalog.find("objectives", "ppo")
    options = {"critic": {"kind": kind}, "epochs": 2, "kl_target": 1.0}
    build = partial(build_trainer, entry, MODEL, bench, options=options, backbone=backbone)
    gradients_in_trainable_roles(build)
    resume_is_exact(build)


def test_a_critics_own_adapter_gets_gradients_once_its_head_has_moved(bench) -> None:
    entry = bench.catalog.find("objectives", "ppo")
    trainer = build_trainer(entry, MODEL, bench, options={"critic": {"kind": "adapter"}}, backbone=LORA)
    started = {name: parameter.clone() for name, parameter in trainer.models.trainable()}
    trainer.train(3, trainer.optimizer(1e-2))
    moved = {n.partition(".")[0] for n, p in trainer.models.trainable() if not torch.equal(p, started[n])}
    assert moved == {"policy", "critic", "critic_head"}
    _, gradients = trainer.gradients(trainer.batches)
    for role in ("policy.", "critic."):
        assert any(g is not None and bool(g.any()) for n, g in gradients.items() if n.startswith(role)), role


@pytest.mark.parametrize("objective", ["ppo", "grpo", "rloo", "online-dpo"])
def test_the_reference_is_the_policy_without_its_adapter(bench, objective) -> None:
    """Before and after training: what the untouched model says."""
    entry = bench.catalog.find("objectives", objective)
    trainer = build_trainer(entry, MODEL, bench, backbone=LORA, size=4)
    plain = load(source_of(MODEL, bench), bench)
    plain.module.double()
    (batch, *_) = trainer.prepare(trainer.batches)
    trainer.train(2, trainer.optimizer(1e-2))
    with torch.no_grad():
        expected = torch.cat([row[0] for row in naive(plain, batch)])
        for role, same in (("reference", True), ("policy", False)):
            backbone = trainer.models[role]
            hidden = backbone.hidden_states(batch["sequences"])
            found = backbone.token_logps(hidden).logps
            assert torch.allclose(found, expected, rtol=0, atol=1e-9) == same, role
