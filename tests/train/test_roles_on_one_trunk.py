"""Policy, critic and reference on one set of weights: joint gradients, checkpointing, kinds of critics, checkpoints."""

import copy
import importlib.util
import warnings
from typing import Any

import pytest
import torch
from mmalign_optimizers.adamw import AdamW

from mmalign.errors import CheckpointError, UsageError
from mmalign.language.derive import token_values
from mmalign.models.adapter_switch import selected
from mmalign.models.lora import adapter_parameters, add_adapter
from mmalign.train.optim import OptimizerState, build_optimizer, set_learning_rate
from mmalign.train.roles import Models
from mmalign.train.shared_trunk import checkpoint_activations
from tests.support.lm_samples import some_sequences
from tests.support.role_samples import IDS, build, gradients, moved

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")

# Gradients ------------------------------------------------------------------------------------------------------------


@needs_peft
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_joint_gradients_are_the_separate_ones_with_and_without_checkpointing(load_lm, lm_folders, family) -> None:
    models = moved(build(load_lm, lm_folders[family], "adapter"))
    for module in models.modules():
        module.double()
    models.train(freeze_batchnorm=False)
    expected = gradients(models, 0) | gradients(models, 1)
    assert not set(gradients(models, 0)) & set(gradients(models, 1))
    assert {name.partition(".")[0] for name in expected} == {"policy", "critic", "critic_head"}
    assert set(expected) == {name for name, _ in models.trainable()} and all(g.any() for g in expected.values())
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(models.trained_modules())
        found = gradients(models, 0, 1)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-10)


@needs_peft
def test_checkpointing_that_somebody_else_switches_on_and_copies(load_lm, lm_folders) -> None:
    """Reentrant or not; a copy of the module computes again with its own layers."""
    models = moved(build(load_lm, lm_folders["tiny_llama"], "adapter"))
    module = models["policy"].module.double().train()
    embedded = module.get_input_embeddings()(IDS).detach().requires_grad_()

    def gradient(module: Any) -> torch.Tensor:
        embedded.grad = None
        with selected(module, "critic"):
            loss = module.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state.square().sum()
        (loss + module.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state.sum()).backward()
        return embedded.grad.clone()

    expected = gradient(module)
    for reentrant in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            module.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.testing.assert_close(gradient(module), expected, rtol=1e-10, atol=1e-10)
        twin = copy.deepcopy(module)
        torch.testing.assert_close(gradient(twin), expected, rtol=1e-10, atol=1e-10)
    # The trap is there: without the care, the layers of the critic are computed again with the policy's adapter.
    with selected(module, "critic"):
        for part in module.modules():
            if "_gradient_checkpointing_func" in vars(part):
                part._gradient_checkpointing_func = part._gradient_checkpointing_func.checkpoint
        loss = module.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state.square().sum()
    embedded.grad = None
    loss.backward()
    with selected(module, "critic"):
        right = torch.autograd.grad(
            module.eval().base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state.square().sum(), embedded
        )[0]
    assert (embedded.grad - right).norm() > 0.1 * right.norm()


@needs_peft
def test_selecting_nests_comes_back_and_freezes_nothing(load_lm, lm_folders) -> None:
    models = moved(build(load_lm, lm_folders["tiny_llama"], "adapter"))
    module = models["policy"].module
    add_adapter(module, "still", trains=False)
    trains = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    with torch.no_grad():
        policy = module(IDS).logits
        with selected(module, "critic"):
            critic = module(IDS).logits
            with selected(module, None):
                base = module(IDS).logits
                with selected(module, "default"):
                    assert torch.equal(module(IDS).logits, policy)
            assert torch.equal(module(IDS).logits, critic)
        with pytest.raises(ZeroDivisionError), selected(module, "critic"):
            _ = 1 / 0
        with selected(module, "still"):
            assert torch.equal(module(IDS).logits, base)  # B = 0
        assert torch.equal(module(IDS).logits, policy)
    assert not torch.allclose(policy, critic, atol=1e-3) and not torch.allclose(base, critic, atol=1e-3)
    assert {name: parameter.requires_grad for name, parameter in module.named_parameters()} == trains
    assert all(p.requires_grad for name in ("default", "critic") for p in adapter_parameters(module, name))
    assert not any(p.requires_grad for p in adapter_parameters(module, "still"))
    with (
        pytest.raises(UsageError, match="no adapter 'critik'; it has critic, default, still"),
        selected(module, "critik"),
    ):
        pass


@needs_peft
def test_a_step_of_one_leaves_the_others_as_they_were(load_lm, lm_folders) -> None:
    models, sequences = moved(build(load_lm, lm_folders["tiny_llama"], "adapter")), some_sequences()

    def outputs() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {name: models[name].hidden_states(sequences).states for name in ("policy", "critic", "reference")}

    for part, changes in ((1, {"critic"}), (0, {"policy"})):
        before = outputs()
        optimizer = torch.optim.SGD([p for _, p in models.trainable()], lr=1.0)
        gradients(models, part)
        optimizer.step()
        after = outputs()
        assert {name for name in before if not torch.equal(before[name], after[name])} == changes


# Kinds ----------------------------------------------------------------------------------------------------------------


@needs_peft
@pytest.mark.parametrize(
    ("asked", "lora", "kind"),
    [
        ("auto", True, "adapter"),
        ("auto", False, "head"),
        ("head", True, "head"),
        ("copy", True, "copy"),
        ("copy", False, "copy"),
    ],
)
def test_values_start_at_zero_and_both_learn(load_lm, lm_folders, asked, lora, kind) -> None:
    models = build(load_lm, lm_folders["tiny_llama"], asked, lora=lora)
    sequences = some_sequences()
    assert (models["critic"] is models["policy"]) == (kind == "head")
    assert (models["critic"].module is models["policy"].module) == (kind != "copy")
    hidden = models["critic"].hidden_states(sequences)
    values = token_values(models.head("critic"), hidden)
    assert values.shape == (sum(sequences.num_labels().tolist()),) and not values.any()
    with torch.autocast("cpu", torch.bfloat16):
        assert token_values(models.head("critic"), hidden).dtype == torch.float32
    moved(models)
    found = gradients(models, 0, 1)
    assert {name.partition(".")[0] for name in found} == {"policy", "critic_head"} | (
        {"critic"} if kind != "head" else set()
    )
    state = models.state()
    assert {name for name, _ in models.trainable()} - set(state) <= {n for n in found if n.startswith("critic.")}
    alone = torch.stack([models.head("critic")(hidden.states[i])[0] for i in hidden.layout.predict])
    torch.testing.assert_close(token_values(models.head("critic"), hidden), alone)


@needs_peft
@pytest.mark.parametrize(("kind", "lora"), [("head", False), ("adapter", True), ("copy", False), ("copy", True)])
def test_a_checkpoint_goes_on_to_the_bit_with_a_rate_of_its_own(load_lm, lm_folders, kind, lora) -> None:
    peak = 0.0 if kind == "head" else 3e-2

    def start() -> tuple[Models, Any, list[Any]]:
        torch.manual_seed(0)
        models = build(load_lm, lm_folders["tiny_llama"], kind, lora=lora, learning_rate=peak)
        parameters = models.trainable()
        return models, build_optimizer(AdamW, AdamW.Config(), parameters, 1e-2, models.peaks), parameters

    def step(models: Models, optimizer: Any) -> None:
        set_learning_rate(optimizer, 1e-2)
        gradients(models, 0, 1)
        optimizer.step()

    models, optimizer, parameters = start()
    moved(models)
    step(models, optimizer)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parameters:
        own = name.startswith("critic") and peak
        assert rates[id(parameter)] == pytest.approx(peak if own else 1e-2)
    saved = {name: tensor.clone() for name, tensor in models.state().items()}
    tensors, rest = OptimizerState(optimizer, parameters).capture()
    moments = {name: tensor.clone() for name, tensor in tensors.items()}
    step(models, optimizer)
    again, other, parameters = start()
    again.load_state(saved)
    OptimizerState(other, parameters).restore(moments, rest)
    step(again, other)
    expected = models.state()
    assert set(again.state()) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state().items())
    if lora:
        assert not any("base_layer" in name or name.startswith("reference") for name in expected)


def test_who_is_refused(load_lm, lm_folders, tmp_path) -> None:
    folder = lm_folders["tiny_llama"]
    for options, words in (
        ({"kind": "adapter"}, r"all weights of the policy train\nAdd --set backbone.lora.rank=16"),
        ({"kind": "head", "source": str(tmp_path)}, "has no source of its own"),
        ({"kind": "auto", "learning_rate": 0.1}, "has no learning_rate of its own"),
    ):
        with pytest.raises(UsageError, match=words):
            build(load_lm, folder, lora=False, **options)
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text("{")
    for source, words in (
        ("run", r"holds neither .*\nDid you mean .*run/model\?"),
        ("run/model", "not readable as JSON"),
    ):
        with pytest.raises(CheckpointError, match=words):
            build(load_lm, folder, "copy", lora=False, source=str(tmp_path / source))
    with pytest.raises(CheckpointError, match=r"holds no reward model\nTrain one"):
        build(load_lm, folder, "copy", lora=False, source=str(folder))
    with pytest.raises(UsageError, match=r"train.gradient_checkpointing: Embedding \(policy\)"):
        checkpoint_activations({"policy": torch.nn.Embedding(2, 2)})
