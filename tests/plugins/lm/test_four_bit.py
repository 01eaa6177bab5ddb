"""Weights in 4 bits: refused where they cannot be had; else an adapter trains on them, and they save as floats."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.cli import run
from mmalign.contract.specs import Role
from mmalign.errors import CheckpointError, UsageError
from mmalign.models.lora import adapted_layers
from mmalign.train.roles import build_models, linear_head
from tests.support.lm_samples import naive_logps, some_sequences

IDS = torch.arange(5, 25)[None]
FOUR_BIT = {"load_in": "4bit", "lora": {"rank": 4}}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None or importlib.util.find_spec("peft") is None,
    reason="mmalign[4bit] is not installed",
)


@pytest.fixture
def installed(monkeypatch: Any) -> Any:
    """installed(False): as if bitsandbytes were missing, else as if it were there. No weight may be loaded."""

    def pretend(there: bool) -> None:
        find = importlib.util.find_spec
        found = object() if there else None
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: found if name == "bitsandbytes" else find(name, *rest)
        )
        importlib.import_module("mmalign_lm.backbone")  # its modules take names from each other as they are now
        monkeypatch.setattr("mmalign_lm.folder.load_module", None)
        monkeypatch.setattr("mmalign_lm.four_bit.load_module", None)

    return pretend


@pytest.fixture
def on_any_device(monkeypatch: Any) -> None:
    """Users are refused without a GPU; what follows is checked on the CPU too."""
    monkeypatch.setattr("mmalign_lm.four_bit.has_gpu", lambda: True)


def test_a_missing_gpu_is_named(lm_folders, installed, capsys, monkeypatch) -> None:
    installed(True)
    monkeypatch.setattr("mmalign_lm.four_bit.has_gpu", lambda: False)
    assert run(["generate", "--backbone", str(lm_folders["tiny_llama"]), "--set", "backbone.load_in=4bit", "cat"]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err


def test_a_missing_package_is_named(lm_folders, installed, capsys) -> None:
    installed(False)
    assert (
        run(["generate", "--backbone", str(lm_folders["tiny_llama"]), "--set", "backbone.load_in=4bit", "a cat"]) == 2
    )
    words = capsys.readouterr().err
    assert "needs the package bitsandbytes" in words and 'python -m pip install "mmalign[4bit]"' in words


def test_training_without_an_adapter_is_refused_in_the_plan(lm_folders, installed, capsys) -> None:
    installed(True)
    options = ["--objective", "pretrain", "--backbone", str(lm_folders["tiny_llama"]), "--set", "backbone.load_in=4bit"]
    for more in (["--dry-run"], []):
        assert run(["train", *options, *more]) == 2
        words = capsys.readouterr().err
        assert "there is no adapter to train" in words and "--set backbone.lora.rank=16" in words


def test_what_has_no_saved_float_weights_is_refused(load_lm, lm_folders, installed, tmp_path, on_any_device) -> None:
    installed(True)
    with pytest.raises(UsageError, match=r"takes saved float weights, and .* is random weights"):
        load_lm(lm_folders["tiny_llama"], **FOUR_BIT, random_weights=True)
    with pytest.raises(UsageError, match="gpt-2:124m is random weights"):
        load_lm("gpt-2:124m", **FOUR_BIT)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(lm_folders["tiny_llama"])}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(UsageError, match="is an adapter, which is merged"):
        load_lm(tmp_path, **FOUR_BIT)


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_an_adapter_trains_on_four_bits_and_saves_as_floats(
    load_lm, lm_folders, family, tmp_path, on_any_device
) -> None:
    from bitsandbytes.nn import Linear4bit

    backbone = load_lm(lm_folders[family], **FOUR_BIT)
    plain = load_lm(lm_folders[family])
    layers = [module for module in backbone.module.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == len(adapted_layers(backbone.module)) == (14 if family == "tiny_llama" else 8)
    parameters = dict(backbone.module.named_parameters())
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in parameters.items())
    assert backbone.packs and backbone.describe()["linear_layers"] == "in 4 bits (NF4)"
    backbone.module.train()
    sequences = some_sequences()
    optimizer = torch.optim.SGD([p for p in parameters.values() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = -backbone.token_logps(backbone.hidden_states(sequences)).logps.mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    backbone.module.eval()
    device = backbone.module.device
    backbone.save(tmp_path / "saved")
    with torch.no_grad():
        live = backbone.module(IDS.to(device)).logits.float().cpu()
        found = load_lm(tmp_path / "saved").module(IDS).logits
        start = plain.module(IDS).logits
        logps = backbone.token_logps(backbone.hidden_states(sequences)).logps
        torch.testing.assert_close(logps, naive_logps(backbone.module, sequences), rtol=1e-4, atol=1e-4)
    change = float((start - found).abs().max())
    torch.testing.assert_close(found, live, rtol=1e-4, atol=1e-4)
    assert change > 0.01, change
    assert json.loads((tmp_path / "saved" / "config.json").read_text()).get("quantization_config") is None
    assert (tmp_path / "saved" / "adapter" / "adapter_model.safetensors").is_file()


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_saved_weights_are_those_that_it_computes_with(load_lm, lm_folders, family, tmp_path, on_any_device) -> None:
    from bitsandbytes.nn import Linear4bit

    backbone = load_lm(lm_folders[family], load_in="4bit")
    backbone.save(tmp_path / "saved")
    saved = load_lm(tmp_path / "saved").module.state_dict()
    assert list(saved) == list(load_lm(lm_folders[family]).module.state_dict())
    layers = {name: layer for name, layer in backbone.module.named_modules() if isinstance(layer, Linear4bit)}
    assert len(layers) == (14 if family == "tiny_llama" else 8)
    for name, layer in layers.items():
        eye = torch.eye(layer.in_features, device=backbone.module.device)
        with torch.no_grad():
            rows = layer(eye) - (0 if layer.bias is None else layer.bias)  # [in, out]
        found = saved[f"{name}.weight"]
        torch.testing.assert_close(found if family == "tiny_gpt2" else found.T, rows.cpu(), rtol=1e-2, atol=1e-5)


@needs_bitsandbytes
def test_a_run_trains_and_resumes_exactly_in_four_bits(lm_folders, tmp_path, on_any_device) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"the cat {n}", "completion": f" dog {n}"} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(folder: Path, *sets: str) -> None:
        pairs = ("backbone.load_in=4bit", "backbone.lora.rank=4", "train.batch_size=4", "train.warmup_steps=0")
        options = [part for text in (*pairs, "train.schedule=constant", *sets) for part in ("--set", text)]
        model = ["--backbone", str(lm_folders["tiny_llama"]), "--dataset", str(path), "--device", "cpu"]
        assert run(["train", "--objective", "sft", *model, "--out", str(folder), *options]) == 0

    train(tmp_path / "whole", "train.steps=4")
    train(tmp_path / "part", "train.steps=2")
    more = ["--set", "train.steps=4", "--allow-change", "--device", "cpu"]
    assert run(["train", "--resume", str(tmp_path / "part"), *more]) == 0
    whole, part = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())
    start = load_file(lm_folders["tiny_llama"] / "model.safetensors")
    assert list(start) == list(whole) and torch.equal(start["model.norm.weight"], whole["model.norm.weight"])


@pytest.mark.gpu
@needs_bitsandbytes
def test_on_a_gpu(load_lm, lm_folders, tmp_path) -> None:
    """Products in bfloat16: the saved model is near the live one, measured against what training changed."""
    backbone = load_lm(lm_folders["tiny_llama"], **FOUR_BIT)
    assert backbone.module.device.type == "cuda" and backbone.packs
    ids = IDS.cuda()
    backbone.module(ids).logits.logsumexp(-1).sum().backward()
    with torch.no_grad():
        for _, layer in adapted_layers(backbone.module):
            assert layer.lora_B["default"].weight.grad.any()
            layer.lora_B["default"].weight.normal_(std=0.1)
        live = backbone.module(ids).logits.float().cpu()
        backbone.save(tmp_path / "saved")
        found = load_lm(tmp_path / "saved").module(IDS).logits
        start = load_lm(lm_folders["tiny_llama"]).module(IDS).logits
    assert float((found - live).abs().max()) < 0.1 * float((start - live).abs().max())


@needs_bitsandbytes
def test_a_critic_of_its_own_adapter_on_four_bits(load_lm, lm_folders, tmp_path, on_any_device) -> None:
    from mmalign.language.derive import sequence_logps, token_values

    roles = (Role(name="policy", needs=("token_logps",)), Role(name="critic", needs=("value",), head="value"))
    models = build_models(roles, load_lm(lm_folders["tiny_llama"], **FOUR_BIT))
    torch.nn.init.ones_(models.head("critic").weight)
    sequences = some_sequences()
    values = token_values(models.head("critic"), models["critic"].hidden_states(sequences))
    (values.square().sum() - sequence_logps(models["policy"], sequences).sum()).backward()
    moved = {name for name, parameter in models.trainable() if parameter.grad is not None and parameter.grad.any()}
    assert moved >= {name for name, _ in models.trainable() if "lora_B" in name or "head" in name}
    assert {name.partition(".")[0] for name in moved} == {"policy", "critic", "critic_head"}
    plain = load_lm(lm_folders["tiny_llama"], lora={"rank": 4})
    plain.save_scorer(tmp_path / "reward", linear_head(plain.hidden_width, 1), 0.0)
    with pytest.raises(CheckpointError, match=r"other weights than the policy's: model\.layers\.0"):
        models.add_scorer(tmp_path / "reward")
