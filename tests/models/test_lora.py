"""Low-rank adapters on plain modules: the formula by hand, the switch, merging, files for peft, and mistakes."""

import copy
import importlib.util
import json
from typing import Any

import pytest
import torch
from torch import nn

from mmalign.errors import UsageError
from mmalign.models.lora import LoraOptions, adapted_layers, adapter_off, inject, merged_state, require, save_adapter

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")


class Block(nn.Module):
    """A linear layer by name, one whose weights are read without a call, and a tied output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8, bias=False)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.head(x + self.down(self.up(x).relu()))


IDS = torch.arange(10).reshape(2, 5)


def adapted(options: LoraOptions) -> Block:
    """The same block at every call, with an adapter as after training where there is one."""
    torch.manual_seed(0)
    block = Block()
    inject(block, options, spare=[block.head])
    with torch.no_grad():
        for _, layer in adapted_layers(block):
            layer.lora_B["default"].weight.normal_()
    return block.eval()


@needs_peft
@pytest.mark.parametrize(("alpha", "scale"), [(0.0, 2.0), (6.0, 2.0), (1.5, 0.5)])
def test_a_layer_computes_what_the_paper_says(alpha: float, scale: float) -> None:
    layers = dict(adapted_layers(adapted(LoraOptions(rank=3, alpha=alpha))))
    assert sorted(layers) == ["down", "up"]
    for layer in layers.values():
        x = torch.randn(4, layer.in_features)
        base, a, b = layer.base_layer, layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.shape[0] == b.shape[1] == 3
        expected = x @ (base.weight + scale * b @ a).T + (0 if base.bias is None else base.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@needs_peft
def test_off_is_the_base_exactly_and_puts_everything_back() -> None:
    block, plain = adapted(LoraOptions(rank=3)), adapted(LoraOptions())
    frozen = copy.deepcopy(block).requires_grad_(False)
    with torch.no_grad():
        expected, on = plain(IDS), block(IDS)
        for module, trains in ((block, True), (frozen, False)):
            with adapter_off(module):
                with adapter_off(module):
                    torch.testing.assert_close(module(IDS), expected, rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(module(IDS), expected, rtol=1e-6, atol=1e-6)
            assert torch.equal(module(IDS), on) and not torch.allclose(on, expected, atol=0.1)
            assert any(parameter.requires_grad for parameter in module.parameters()) == trains
    with pytest.raises(ZeroDivisionError), adapter_off(block):
        _ = 1 / 0
    assert torch.equal(block(IDS), on)
    block(IDS).sum().backward()
    assert {name for name, p in block.named_parameters() if p.grad is not None} == {
        f"{layer}.{half}.default.weight" for layer in ("up", "down") for half in ("lora_A", "lora_B")
    }


@needs_peft
def test_merging_leaves_the_module_as_it_is() -> None:
    block = adapted(LoraOptions(rank=3))
    before = copy.deepcopy(block.state_dict())
    plain = adapted(LoraOptions())
    plain.load_state_dict(merged_state(block))
    assert plain.head.weight is plain.embed.weight
    torch.testing.assert_close(plain(IDS), block(IDS), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


@needs_peft
def test_dropout_is_for_training_alone() -> None:
    block = adapted(LoraOptions(rank=3, dropout=0.5))
    with torch.no_grad():
        assert torch.equal(block(IDS), block(IDS))
        block.train()
        assert not torch.equal(block(IDS), block(IDS))


@needs_peft
def test_peft_loads_the_files(tmp_path: Any) -> None:
    from peft import PeftModel

    block = adapted(LoraOptions(rank=3, targets=("up",)))
    save_adapter(block, tmp_path / "adapter", base="somewhere")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "somewhere"
    )
    peer = PeftModel.from_pretrained(adapted(LoraOptions()), str(tmp_path / "adapter"))
    torch.testing.assert_close(peer(IDS), block(IDS), rtol=1e-6, atol=1e-6)


def test_mistakes_are_named(monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match="no adapter to switch off"), adapter_off(Block()):
        pass
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        require(LoraOptions())
        with pytest.raises(UsageError, match=r'needs the package peft.*\npython -m pip install "mmalign\[lora\]"'):
            require(LoraOptions(rank=1))


@needs_peft
def test_layers_that_cannot_have_one_are_named() -> None:
    with pytest.raises(UsageError, match=r"named 'upp'\nDid you mean up\? Layers here: down, up"):
        adapted(LoraOptions(rank=1, targets=("upp",)))
    for name in ("out_proj", "head"):
        with pytest.raises(UsageError, match=f"no linear layer that trains is named '{name}'"):
            adapted(LoraOptions(rank=1, targets=(name,)))
    with pytest.raises(UsageError, match=r"backbone.lora finds no linear layer that trains"):
        inject(Block().requires_grad_(False), LoraOptions(rank=1))
