"""Reward models on the policy's weights or as a critic's start; what is saved; the reference; who shares what."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmalign_optimizers.adamw import AdamW
from safetensors.torch import load_file, save_file

from mmalign.cli import run
from mmalign.contract.optimizer import ParameterGroup
from mmalign.errors import CheckpointError
from mmalign.language.derive import sequence_logps
from mmalign.models.adapter_switch import adapted_layers
from mmalign.models.lora import adapter_parameters, merged_state, scale_adapter
from mmalign.train.roles import Models, build_models, linear_head
from mmalign.train.sharing import role_figures
from tests.support.lm_samples import some_sequences
from tests.support.role_samples import IDS, LORA, MEAN, ROLES, build, gradients, moved

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")

# Reward models --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(load_lm, lm_folders, tmp_path_factory) -> dict[str, Path]:
    """Of three families, the last without a classifier in transformers."""
    from transformers import CohereConfig, CohereForCausalLM

    beside, backbone = tmp_path_factory.mktemp("cohere"), load_lm(lm_folders["tiny_llama"])
    backbone.processor.save(beside)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": backbone.processor.num_tokens, "bos_token_id": 1, "eos_token_id": backbone.processor.end_id}
    torch.manual_seed(0)
    config = CohereConfig(**sizes, **ids, num_key_value_heads=1, pad_token_id=0, max_position_embeddings=32)
    CohereForCausalLM(config).save_pretrained(beside)
    return {"tiny_llama": lm_folders["tiny_llama"], "tiny_gpt2": lm_folders["tiny_gpt2"], "beside": beside}


@pytest.fixture(scope="module")
def rewards(load_lm, folders, tmp_path_factory) -> dict[str, Path]:
    """Saved as the objective saves them: trained with an adapter, and trained whole."""
    root, found = tmp_path_factory.mktemp("rewards"), {}
    for family, folder in folders.items():
        for name, options in (("adapter", {"lora": LORA}), ("whole", {})):
            backbone = load_lm(folder, **options)
            models = moved(Models({"policy": backbone}, {"policy"}, {"policy": linear_head(backbone.hidden_width, 1)}))
            assert backbone.save_scorer(root / family / name, models.head("policy"), MEAN) == (family != "beside")
            found[f"{family}/{name}"] = root / family / name
    return found


@needs_peft
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2", "beside"])
def test_a_reward_model_scores_the_same_on_the_policys_weights(load_lm, folders, rewards, family) -> None:
    models, sequences = moved(build(load_lm, folders[family], "adapter")), some_sequences()
    alone = load_lm(rewards[f"{family}/adapter"])
    with torch.no_grad():
        before = models["policy"].module(IDS).logits
        state = set(models.state())
        scorer = models.add_scorer(rewards[f"{family}/adapter"])
        assert models["reward"] is scorer and torch.equal(models["policy"].module(IDS).logits, before)
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
    ("kind", "family", "which"),
    [
        ("adapter", "tiny_llama", "adapter"),
        ("adapter", "beside", "adapter"),
        ("copy", "tiny_llama", "adapter"),
        ("copy", "tiny_gpt2", "whole"),
        ("copy", "beside", "whole"),
        ("auto", "tiny_llama", "whole"),
    ],
)
def test_a_critic_starts_from_the_reward_model(load_lm, folders, rewards, kind, family, which) -> None:
    source = rewards[f"{family}/{which}"]
    models = build(load_lm, folders[family], kind, source=str(source))
    sequences, alone = some_sequences(), load_lm(source)
    assert (models["critic"].module is models["policy"].module) == (kind == "adapter")
    assert ("critic: a model of its own, because" in "".join(models.notes)) == (kind == "auto")
    with torch.no_grad():
        hidden = models["critic"].hidden_states(sequences)
        found = models.head("critic")(hidden.states[hidden.layout.last])[:, 0]
        torch.testing.assert_close(found, alone.score_sequences(sequences), rtol=0, atol=1e-5)
        policy = models["policy"].hidden_states(sequences).layout
        assert torch.equal(hidden.layout.labels, policy.labels)
    assert {name.partition(".")[0] for name in gradients(moved(models), 1)} == {"critic", "critic_head"}


@needs_peft
def test_a_critic_of_another_family_reads_the_same_tokens_in_the_same_order(load_lm, folders, rewards) -> None:
    models = build(load_lm, folders["tiny_llama"], "copy", lora=False, source=str(rewards["tiny_gpt2/whole"]))
    sequences, alone = some_sequences(), load_lm(rewards["tiny_gpt2/whole"])
    with torch.no_grad():
        critic, policy = (role.hidden_states(sequences).layout for role in (models["critic"], models["policy"]))
        assert torch.equal(critic.labels, policy.labels) and torch.equal(critic.offsets, policy.offsets)
        hidden = models["critic"].hidden_states(sequences)
        found = models.head("critic")(hidden.states[hidden.layout.last])[:, 0]
        torch.testing.assert_close(found, alone.score_sequences(sequences), rtol=0, atol=1e-5)


@needs_peft
def test_reward_models_that_do_not_fit_say_why(load_lm, lm_folders, rewards, tmp_path) -> None:
    import shutil

    models = build(load_lm, lm_folders["tiny_llama"], "adapter")
    before = {name: tensor.clone() for name, tensor in models["policy"].module.state_dict().items()}
    other = tmp_path / "other"
    shutil.copytree(rewards["tiny_llama/adapter"], other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-4
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    for folder, words in (
        (other, r"trained on other weights than the policy's: model.norm.weight differs"),
        (rewards["tiny_llama/whole"], "was not trained with an adapter: it has no adapter/"),
        (rewards["tiny_gpt2/adapter"], "another shape|is not 1 x|other tokens|no such layer|cannot be put"),
        (lm_folders["tiny_llama"], "holds no reward model"),
    ):
        with pytest.raises(CheckpointError, match=words):
            models.add_scorer(folder)
        after = models["policy"].module.state_dict()
        assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
        assert set(models["policy"].module.peft_config) == {"default", "critic"}
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
    policy = models["policy"]
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
        trained["policy"].save(tmp_path / "saved")
        folder = tmp_path / "saved" / "adapter"
    models = build_models(ROLES, load_lm(folder, **({} if start == "full" else {"lora": LORA})))
    with torch.no_grad():
        expected = sequence_logps(load_lm(folder), sequences)
        if start == "merged":
            torch.testing.assert_close(sequence_logps(trained["policy"], sequences), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(sequence_logps(models["policy"], sequences), expected)
        moved(models)
        assert torch.equal(sequence_logps(models["reference"], sequences), expected)
        assert not torch.allclose(sequence_logps(models["policy"], sequences), expected, atol=1e-3)
    assert bool(adapted_layers(models["reference"].module)) == (start != "full")


# Who shares what ------------------------------------------------------------------------------------------------------


@needs_peft
def test_shared_weights_are_counted_once(load_lm, lm_folders, rewards) -> None:
    models = build(load_lm, lm_folders["tiny_llama"], "adapter")
    models.add_scorer(rewards["tiny_llama/adapter"])
    parameters = models.trainable()
    optimizer = AdamW.build([ParameterGroup(tuple(parameters), 1e-3)], AdamW.Config())
    for _, parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # which makes its state
    found = {figures.role: figures for figures in role_figures(models, optimizer)}
    base = sum(p.numel() for p in load_lm(lm_folders["tiny_llama"]).module.parameters())
    adapter = sum(p.numel() for p in adapter_parameters(models["policy"].module, "default"))
    width = models["policy"].hidden_width
    assert {role: (f.parameters, f.trainable, f.shares) for role, f in found.items()} == {
        "policy": (base + adapter, adapter, ""),
        "critic": (adapter + width + 1, adapter + width + 1, "policy"),
        "reward": (adapter + width, 0, "policy"),
        "reference": (0, 0, "policy"),
    }
    for figures in found.values():
        assert figures.weights_bytes == 4 * figures.parameters
        assert 2 * figures.gradient_bytes == 8 * figures.trainable
        counters = figures.optimizer_bytes - 8 * figures.trainable
        assert 0 <= counters <= 4 * len(parameters) and bool(counters) == bool(figures.trainable)
    assert found["reference"].line() == "reference: policy with its adapter off; nothing of its own"
    assert found["reward"].how == found["critic"].how == "an adapter on the weights of policy"
    whole = {f.role: f for f in role_figures(build(load_lm, lm_folders["tiny_llama"], "copy", lora=False))}
    assert {role: f.parameters for role, f in whole.items()} == {
        "policy": base,
        "critic": base + width + 1,
        "reference": base,
    }
    assert whole["reference"].how == "a frozen copy" and whole["critic"].how == "a model of its own"
    head = {f.role: f for f in role_figures(build(load_lm, lm_folders["tiny_llama"], "head", lora=False))}
    assert head["critic"].how == "a head on the pass of policy" and head["critic"].parameters == width + 1


@needs_peft
@pytest.mark.parametrize(
    ("sets", "how"),
    [
        (["backbone.lora.rank=4"], "policy with its adapter off"),
        ([], "policy, used only before the first step"),
        (["train.frozen_roles=copy"], "a frozen copy"),
    ],
)
def test_a_dry_run_lists_the_roles(capsys, lm_folders, tmp_path, sets, how) -> None:
    rows = [{"prompt": f"cat {n}", "chosen": " red", "rejected": " blue dog"} for n in range(8)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = [
        "--objective",
        "dpo",
        "--backbone",
        str(lm_folders["tiny_llama"]),
        "--dataset",
        str(path),
        "--device",
        "cpu",
    ]
    options = [part for text in ("train.batch_size=4", *sets) for part in ("--set", text)]
    assert run(["train", *named, *options, "--dry-run", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["estimate"]
    policy, reference = figures["roles"]
    assert (policy["role"], reference["role"], reference["how"]) == ("policy", "reference", how)
    assert not reference["trains"] and not reference["trainable"]
    assert figures["weights_bytes"] == policy["weights_bytes"] + reference["weights_bytes"]
    assert reference["weights_bytes"] == (policy["weights_bytes"] if "copy" in how else 0)
    assert run(["train", *named, *options, "--dry-run"]) == 0
    assert f"reference: {how}" in capsys.readouterr().out
