"""Accumulation is exact for every parameter, scale and bias included: float64, to 1e-10."""

import itertools

import pytest
import torch

from mmalign.ops import info_nce
from mmalign.train import rng
from mmalign.train.distributed import Processes
from mmalign.train.roles import Models
from mmalign.train.step import Engine, StepModule, accumulate
from tests.support.clip_batches import make_batch

LOSSES = {"infonce": {}, "sigmoid": {"init_logit_bias": -3.0}}


def _engine(backbone, loss: str) -> tuple[Engine, Models]:
    from mmalign_objectives.contrastive import Contrastive

    objective = Contrastive(Contrastive.Config(loss=loss))
    models = Models({"policy": backbone}, {"policy"})
    processes = Processes("cpu")
    phases = {"main": (objective,)}
    forward = StepModule(phases, models)
    return Engine(objective, phases, forward, processes, processes.device, objective.weights), models


def _gradients(models: Models) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in models.trainable() if parameter.grad is not None}


@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_agree_for_every_parameter(load, tiny_folder, loss: str) -> None:
    found = {}
    for micro in (8, 4, 2, 3, 1):
        backbone = load(tiny_folder, **LOSSES[loss])
        engine, models = _engine(backbone, loss)
        models.train(freeze_batchnorm=True)
        result = accumulate(engine, [make_batch(backbone)], micro)
        found[micro] = (result.loss, _gradients(models))
    loss_value, reference = found[8]
    names = {name for name, _ in models.trainable()}
    assert set(reference) == names and any("logit_scale" in name for name in names)
    assert all(float(gradient.abs().max()) > 0 for name, gradient in reference.items() if "logit" in name)
    for micro, (value, gradients) in found.items():
        torch.testing.assert_close(value, loss_value, rtol=1e-12, atol=1e-12)
        for name, gradient in reference.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-10, msg=f"{micro}: {name}")


def test_gradient_equals_plain_autograd(load, tiny_folder) -> None:
    backbone = load(tiny_folder)
    engine, models = _engine(backbone, "infonce")
    batch = make_batch(backbone)
    accumulate(engine, [batch], 2)
    got = _gradients(models)
    backbone.module.zero_grad()
    image, text = backbone.encode_image(batch["image"]), backbone.encode_text(batch["text"])
    z = backbone.contrastive_head().log_scale.exp() * image @ text.T
    match = torch.tensor([[a == b for b in batch["caption"]] for a in batch["caption"]], dtype=torch.float64)
    target = match / match.sum(1, keepdim=True)
    naive = -((target * z.log_softmax(1)).sum() + (target * z.log_softmax(0)).sum()) / 2 / len(batch)
    naive.backward()
    for name, gradient in _gradients(models).items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("micro", [4, 2, 3])
def test_two_pass_with_dropout_equals_one_graph_over_the_same_random_states(load, tiny_folder, micro: int) -> None:
    backbone = load(tiny_folder, patch_dropout=0.4)
    _add_dropout(backbone)
    engine, models = _engine(backbone, "infonce")
    models.train(freeze_batchnorm=True)
    batch = make_batch(backbone)
    torch.manual_seed(5)
    result = accumulate(engine, [batch], micro)
    after = rng.capture(engine.device)["cpu"]
    got = _gradients(models)
    backbone.module.zero_grad()
    torch.manual_seed(5)
    parts = [engine.run(engine.objective, part) for part in batch.split(micro)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    total, _ = info_nce(joined["x"], joined["y"], joined["scale"], joined["ids"])
    (total / len(batch)).backward()
    torch.testing.assert_close(result.loss, total.detach() / len(batch), rtol=1e-12, atol=1e-12)
    for name, gradient in _gradients(models).items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-10, atol=1e-10, msg=name)
    assert torch.equal(after, rng.capture(engine.device)["cpu"]), "the replay leaves the generator where one pass does"


def test_dropout_is_really_random_in_that_test(load, tiny_folder) -> None:
    backbone = load(tiny_folder, patch_dropout=0.4)
    backbone.module.train()
    image = make_batch(backbone)["image"]
    assert not torch.allclose(backbone.encode_image(image), backbone.encode_image(image), atol=1e-6)


def test_batchnorm_is_frozen_when_the_batch_is_split(load, tiny_bn_folder) -> None:
    backbone = load(tiny_bn_folder)
    engine, models = _engine(backbone, "infonce")
    assert models.train(freeze_batchnorm=True) > 0
    before = {name: value.clone() for name, value in backbone.module.named_buffers() if "running" in name}
    assert before
    found = []
    for micro in (8, 2):
        backbone.module.zero_grad()
        accumulate(engine, [make_batch(backbone)], micro)
        found.append(_gradients(models))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-8, atol=1e-10, msg=name)
    buffers = dict(backbone.module.named_buffers())
    assert all(torch.equal(buffers[name], value) for name, value in before.items())


def test_live_batchnorm_in_one_batch_updates_its_statistics(load, tiny_bn_folder) -> None:
    backbone = load(tiny_bn_folder)
    engine, models = _engine(backbone, "infonce")
    assert models.train(freeze_batchnorm=False) == 0
    before = {name: value.clone() for name, value in backbone.module.named_buffers() if "running_mean" in name}
    accumulate(engine, [make_batch(backbone)], 0)
    buffers = dict(backbone.module.named_buffers())
    assert any(not torch.equal(buffers[name], value) for name, value in before.items())


def test_separate_objectives_weigh_terms_by_global_counts(load, tiny_folder) -> None:
    """A ragged per-token loss: 1 x 8, 4 x 2 and 8 x 1 agree though the micro-batches hold unequal numbers of tokens."""
    from mmalign import Objective

    class TokenNorm(Objective):
        def forward(self, models, batch):
            return {"text": models["policy"].encode_text(batch["text"])}

        def loss(self, outputs, batch):
            lengths = batch["text"].lengths.to(outputs["text"].dtype)
            total = (outputs["text"][:, 0] * lengths).sum()
            return {"a": total, "never": total * 0}, {"mean": (total.detach(), lengths.sum())}

        def count(self, batch):
            return {"a": float(batch["text"].lengths.sum()), "never": 0.0}

    found = []
    for micro in (8, 2, 1):
        backbone = load(tiny_folder)
        models = Models({"policy": backbone}, {"policy"})
        objective = TokenNorm(None)
        phases = {"main": (objective,)}
        forward = StepModule(phases, models)
        engine = Engine(objective, phases, forward, Processes("cpu"), torch.device("cpu"), objective.weights)
        result = accumulate(engine, [make_batch(backbone)], micro)
        found.append((result.loss, _gradients(models), result.metrics["mean"]))
        assert set(result.terms) == {"a"}
    for (loss, gradients, metric), (other, theirs, same) in itertools.pairwise(found):
        torch.testing.assert_close(loss, other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(metric[0], same[0], rtol=1e-12, atol=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def _add_dropout(backbone) -> None:
    """Dropout in both towers, so that the replay has something to repeat besides the dropped patches."""
    for tower in (backbone.module.visual.transformer, backbone.module.transformer):
        for block in tower.resblocks:
            block.mlp.append(torch.nn.Dropout(0.3))
