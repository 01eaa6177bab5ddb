"""Adapters on language models: transformers and peft load what is saved, rewards, training, resuming, interpolation."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.cli import run
from mmalign.models.lora import adapted_layers
from mmalign.train.roles import Models, linear_head
from tests.support.lm_samples import FAMILIES, naive_logps, some_sequences

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")
IDS = torch.arange(5, 25)[None]


def trained(backbone: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return backbone


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_it_merged_and_peft_the_adapter(load_lm, lm_folders, family, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    backbone = trained(load_lm(lm_folders[family], lora={"rank": 4}))
    backbone.save(tmp_path / "saved")
    base = AutoModelForCausalLM.from_pretrained(lm_folders[family])
    with torch.no_grad():
        expected, off = backbone.module(IDS).logits, base(IDS).logits
        with backbone.adapter_off():
            assert torch.equal(backbone.module(IDS).logits, off)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-5, atol=1e-5)
        peer = PeftModel.from_pretrained(base, str(tmp_path / "saved" / "adapter"))
        torch.testing.assert_close(peer(IDS).logits, expected, rtol=1e-6, atol=1e-6)
    settings = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    assert settings["task_type"] == "CAUSAL_LM" and settings["base_model_name_or_path"] == str(lm_folders[family])


def test_log_probabilities_and_packing_are_those_of_the_adapted_model(load_lm, lm_folders) -> None:
    backbone = trained(load_lm(lm_folders["tiny_llama"], lora={"rank": 4, "targets": ["q_proj", "down_proj"]}))
    assert backbone.packs and len(adapted_layers(backbone.module)) == 4
    assert backbone.describe()["adapter"] == "LoRA of rank 4 on 4 layers: down_proj, q_proj"
    sequences = some_sequences()
    with torch.no_grad():
        found = backbone.token_logps(backbone.hidden_states(sequences)).logps
        torch.testing.assert_close(found, naive_logps(backbone.module, sequences), rtol=1e-5, atol=1e-5)


def test_a_reward_model_has_the_adapter_merged(load_lm, lm_folders, tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification

    backbone = trained(load_lm(lm_folders["tiny_gpt2"], lora={"rank": 4}))
    head = linear_head(backbone.hidden_width, 1)
    assert backbone.save_scorer(tmp_path / "saved", head, mean=0.0)
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        expected = head(backbone.module.base_model(input_ids=IDS).last_hidden_state[0, -1])
        torch.testing.assert_close(scorer(IDS).logits[0], expected, rtol=1e-5, atol=1e-5)


def test_checkpoints_hold_the_adapter_and_the_head_alone(load_lm, lm_folders) -> None:
    backbone = load_lm(lm_folders["tiny_llama"], lora={"rank": 4})
    models = Models({"policy": backbone}, {"policy"}, {"policy": linear_head(backbone.hidden_width, 1)})
    names = {name for name, _ in models.trainable()}
    buffers = {f"policy.{name}" for name, _ in backbone.module.named_buffers()}
    assert set(models.state()) - buffers == names and "policy_head.weight" in names
    assert all("lora_" in name or name == "policy_head.weight" for name in names)


# Runs -----------------------------------------------------------------------------------------------------------------

TRAIN = ["--set", "train.batch_size=4", "--set", "train.warmup_steps=0", "--set", "train.learning_rate=0.01"]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"the cat {n}", "completion": f" dog {n}"} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sft(folder: Path, model: Path, answers: Path, *sets: str) -> Path:
    options = [part for text in ("backbone.lora.rank=4", "train.steps=6", *sets) for part in ("--set", text)]
    backbone = ["--backbone", str(model), "--dataset", str(answers), "--out", str(folder), "--device", "cpu"]
    assert run(["train", "--objective", "sft", *backbone, *TRAIN, *options]) == 0
    return folder / "model"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_run_goes_on_exactly_and_interpolation_scales_the_change(lm_folders, answers, tmp_path) -> None:
    model = lm_folders["tiny_llama"]
    dropout = "backbone.lora.dropout=0.2"
    whole = weights(sft(tmp_path / "whole", model, answers, dropout))
    sft(tmp_path / "part", model, answers, dropout, "train.steps=3", "train.schedule=constant")
    sft(tmp_path / "constant", model, answers, dropout, "train.schedule=constant")
    more = ["--set", "train.steps=6", "--allow-change", "--device", "cpu"]
    assert run(["train", "--resume", str(tmp_path / "part"), *more]) == 0
    resumed, straight = weights(tmp_path / "part" / "model"), weights(tmp_path / "constant" / "model")
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    start = weights(model)
    mixed = weights(sft(tmp_path / "mixed", model, answers, dropout, "train.wise_ft=0.25"))
    for name, value in start.items():
        expected = value + 0.25 * (whole[name] - value)
        torch.testing.assert_close(mixed[name], expected, rtol=1e-5, atol=1e-6)
    moved = [name for name, value in start.items() if not torch.equal(value, whole[name])]
    assert moved and all("_proj" in name for name in moved)
