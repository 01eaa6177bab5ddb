"""Policy, critic, reward and reference on one set of weights: gradients, checkpointing, files, and who is refused."""

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_samples import some_sequences
from safetensors.torch import load_file, save_file

from mmalign.derive import sequence_logps, token_values
from mmalign.errors import CheckpointError, UsageError
from mmalign.lora import adapter_parameters, add_adapter, merged_state, scale_adapter
from mmalign.selection import adapted_layers, selected
from mmalign.specs import Role
from mmalign.train.config import TrainConfig
from mmalign.train.models import Models, build_models, linear_head
from mmalign.train.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors, set_learning_rate
from mmalign.train.roles import CriticOptions, checkpoint_activations

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")
ROLES = (
    Role(name="policy", needs=("token_logps",)),
    Role(name="critic", needs=("value",), head="value"),
    Role(name="reference", needs=("sequence_logp",), trains=False),
)
IDS = torch.arange(5, 25)[None]
LORA = {"rank": 4}
MEAN = 0.75


def moved(models: Models) -> Models:
    """As after training: every trained parameter is another."""
    torch.manual_seed(3)
    with torch.no_grad():
        for _, parameter in models.trainable():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return models


def build(load_lm: Any, folder: Path, kind: str, lora: bool = True, **options: Any) -> Models:
    policy = load_lm(folder, **({"lora": LORA} if lora else {}))
    return build_models(ROLES, policy, critic=CriticOptions(kind=kind, **options))


def losses(models: Models) -> tuple[torch.Tensor, torch.Tensor]:
    """(of the policy, of the critic), each of its own pass."""
    sequences = some_sequences()
    policy = -sequence_logps(models.policy, sequences).mean()
    values = token_values(models.heads["critic"], models.critic.hidden_states(sequences))
    return policy, (values - 1).square().mean()


def gradients(models: Models, *parts: int) -> dict[str, torch.Tensor]:
    """Of the sum of these losses, by parameter."""
    for module in models.modules():
        module.zero_grad(set_to_none=True)
    both = losses(models)
    torch.stack([both[part] for part in parts]).sum().backward()
    found = {name: parameter.grad for name, parameter in models.trainable()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


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
    module = models.policy.module.double().train()
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
    module = models.policy.module
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
            return {
                name: getattr(models, name).hidden_states(sequences).states
                for name in ("policy", "critic", "reference")
            }

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
    assert (models.critic is models.policy) == (kind == "head")
    assert (models.critic.module is models.policy.module) == (kind != "copy")
    hidden = models.critic.hidden_states(sequences)
    values = token_values(models.heads["critic"], hidden)
    assert values.shape == (sum(sequences.num_labels().tolist()),) and not values.any()
    with torch.autocast("cpu", torch.bfloat16):
        assert token_values(models.heads["critic"], hidden).dtype == torch.float32
    moved(models)
    found = gradients(models, 0, 1)
    assert {name.partition(".")[0] for name in found} == {"policy", "critic_head"} | (
        {"critic"} if kind != "head" else set()
    )
    state = models.state()
    assert {name for name, _ in models.trainable()} - set(state) <= {n for n in found if n.startswith("critic.")}
    alone = torch.stack([models.heads["critic"](hidden.states[i])[0] for i in hidden.layout.predict])
    torch.testing.assert_close(token_values(models.heads["critic"], hidden), alone)


@needs_peft
@pytest.mark.parametrize(("kind", "lora"), [("head", False), ("adapter", True), ("copy", False), ("copy", True)])
def test_a_checkpoint_goes_on_to_the_bit_with_a_rate_of_its_own(load_lm, lm_folders, kind, lora) -> None:
    config = TrainConfig(learning_rate=1e-2)
    peak = 0.0 if kind == "head" else 3e-2

    def start() -> tuple[Models, Any, list[Any]]:
        torch.manual_seed(0)
        models = build(load_lm, lm_folders["tiny_llama"], kind, lora=lora, learning_rate=peak)
        parameters = models.trainable()
        return models, build_optimizer(parameters, config, models.peaks), parameters

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
    moments = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, parameters).items()}
    step(models, optimizer)
    again, other, parameters = start()
    again.load_state(saved)
    load_optimizer_tensors(other, parameters, moments)
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
    with pytest.raises(CheckpointError, match=r"config\.json: not readable"):
        build(load_lm, folder, "copy", lora=False, source=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"holds no reward model\nTrain one"):
        build(load_lm, folder, "copy", lora=False, source=str(folder))
    with pytest.raises(UsageError, match=r"train.gradient_checkpointing: Embedding \(policy\)"):
        checkpoint_activations({"policy": torch.nn.Embedding(2, 2)})


# Reward models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rewards(load_lm, lm_folders, tmp_path_factory) -> dict[str, Path]:
    """Saved as the objective saves them: trained with an adapter, trained whole, and with one on other weights."""
    root, found = tmp_path_factory.mktemp("rewards"), {}
    for family in ("tiny_llama", "tiny_gpt2"):
        for name, options in (("adapter", {"lora": LORA | {"targets": []}}), ("whole", {})):
            backbone = load_lm(lm_folders[family], **options)
            models = moved(Models({"policy": backbone}, {"policy"}, {"policy": linear_head(backbone.hidden_width, 1)}))
            assert backbone.save_scorer(root / family / name, models.heads["policy"], MEAN)
            found[f"{family}/{name}"] = root / family / name
    return found


@needs_peft
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_a_reward_model_scores_the_same_on_the_policys_weights(load_lm, lm_folders, rewards, family) -> None:
    models, sequences = moved(build(load_lm, lm_folders[family], "adapter")), some_sequences()
    alone = load_lm(rewards[f"{family}/adapter"])
    with torch.no_grad():
        before = models.policy.module(IDS).logits
        state = set(models.state())
        scorer = models.add_scorer(rewards[f"{family}/adapter"])
        assert models.reward is scorer and torch.equal(models.policy.module(IDS).logits, before)
        torch.testing.assert_close(
            scorer.score_sequences(sequences), alone.score_sequences(sequences), rtol=0, atol=1e-5
        )
    assert set(models.state()) == state and not any("reward" in name for name, _ in models.trainable())
    models.to("cpu")
    joint = gradients(models, 0, 1)
    assert set(joint) == {name for name, _ in models.trainable()}


@needs_peft
def test_a_reward_adapter_on_other_layers_than_the_policys(load_lm, lm_folders, rewards, tmp_path) -> None:
    policy = load_lm(lm_folders["tiny_llama"], lora={"rank": 2, "targets": ["q_proj"]})
    models = moved(build_models(ROLES, policy))
    with torch.no_grad():
        expected = policy.module(IDS).logits
        scorer = models.add_scorer(rewards["tiny_llama/adapter"])
        alone = load_lm(rewards["tiny_llama/adapter"])
        torch.testing.assert_close(
            scorer.score_sequences(some_sequences()), alone.score_sequences(some_sequences()), rtol=0, atol=1e-5
        )
        assert torch.equal(policy.module(IDS).logits, expected)
        policy.save(tmp_path / "saved")
        again = load_lm(tmp_path / "saved")
        torch.testing.assert_close(again.module(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    assert policy.describe()["adapter"] == "LoRA of rank 2 on 2 layers: q_proj"


@needs_peft
@pytest.mark.parametrize(
    ("kind", "which"), [("adapter", "adapter"), ("copy", "adapter"), ("copy", "whole"), ("auto", "whole")]
)
def test_a_critic_starts_from_the_reward_model(load_lm, lm_folders, rewards, kind, which) -> None:
    source = rewards[f"tiny_llama/{which}"]
    models = build(load_lm, lm_folders["tiny_llama"], kind, source=str(source))
    sequences, alone = some_sequences(), load_lm(source)
    assert (models.critic.module is models.policy.module) == (kind == "adapter")
    assert ("critic: a model of its own, since" in "".join(models.notes)) == (kind == "auto")
    with torch.no_grad():
        hidden = models.critic.hidden_states(sequences)
        found = models.heads["critic"](hidden.states[hidden.layout.last])[:, 0]
        torch.testing.assert_close(found, alone.score_sequences(sequences), rtol=0, atol=1e-5)
        policy = models.policy.hidden_states(sequences).layout
        assert torch.equal(hidden.layout.labels, policy.labels)
    assert {name.partition(".")[0] for name in gradients(moved(models), 1)} == {"critic", "critic_head"}


@needs_peft
def test_reward_models_that_do_not_fit_say_why(load_lm, lm_folders, rewards, tmp_path) -> None:
    import shutil

    models = build(load_lm, lm_folders["tiny_llama"], "adapter")
    before = {name: tensor.clone() for name, tensor in models.policy.module.state_dict().items()}
    other = tmp_path / "other"
    shutil.copytree(rewards["tiny_llama/adapter"], other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-4
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    for folder, words in (
        (other, r"trained on other weights than the policy's: model.norm.weight differs"),
        (rewards["tiny_llama/whole"], "was not trained with an adapter: it has no adapter/"),
        (rewards["tiny_gpt2/adapter"], "another shape|other tokens|no such layer|cannot be put"),
        (lm_folders["tiny_llama"], "holds no reward model"),
    ):
        with pytest.raises(CheckpointError, match=words):
            models.add_scorer(folder)
        after = models.policy.module.state_dict()
        assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
        assert set(models.policy.module.peft_config) == {"default", "critic"}
    with pytest.raises(CheckpointError, match="all of them train"):
        build(load_lm, lm_folders["tiny_llama"], "head", lora=False).add_scorer(other)


# Files and the reference ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@needs_peft
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_what_is_saved_is_the_policy_alone(load_lm, lm_folders, family, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    models = moved(build(load_lm, lm_folders[family], "adapter"))
    policy = models.policy
    policy.save(tmp_path / "saved")
    with torch.no_grad():
        expected = policy.module(IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        base = AutoModelForCausalLM.from_pretrained(lm_folders[family])
        peer = PeftModel.from_pretrained(base, str(tmp_path / "saved" / "adapter"))
        torch.testing.assert_close(peer(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        adapter = load_file(tmp_path / "saved" / "adapter" / "adapter_model.safetensors")
        assert not any("critic" in name for name in (*adapter, *merged_state(policy.module)))
        critic = [parameter.clone() for parameter in adapter_parameters(policy.module, "critic")]
        assert scale_adapter(policy.module, 0.0)
        assert all(map(torch.equal, critic, adapter_parameters(policy.module, "critic")))
        with policy.adapter_off():
            off = policy.module(IDS).logits
        assert torch.equal(policy.module(IDS).logits, off)


@needs_peft
@pytest.mark.parametrize("start", ["full", "fresh", "merged"])
def test_the_reference_is_the_starting_policy(load_lm, lm_folders, start, tmp_path) -> None:
    folder, sequences = lm_folders["tiny_llama"], some_sequences()
    if start == "merged":
        trained = moved(build_models(ROLES, load_lm(folder, lora=LORA)))
        trained.policy.save(tmp_path / "saved")
        folder = tmp_path / "saved" / "adapter"
    models = build_models(ROLES, load_lm(folder, **({} if start == "full" else {"lora": LORA})))
    with torch.no_grad():
        expected = sequence_logps(load_lm(folder), sequences)
        if start == "merged":
            torch.testing.assert_close(sequence_logps(trained.policy, sequences), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(sequence_logps(models.policy, sequences), expected)
        moved(models)
        assert torch.equal(sequence_logps(models.reference, sequences), expected)
        assert not torch.allclose(sequence_logps(models.policy, sequences), expected, atol=1e-3)
    assert bool(adapted_layers(models.reference.module)) == (start != "full")
