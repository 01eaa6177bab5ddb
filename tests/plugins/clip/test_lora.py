"""Adapters on dual encoders: the libraries load what is saved, locked towers get none, and they alone train."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.models.lora import adapted_layers
from tests.support.clip_samples import TEXTS, ragged

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")
LORA = {"rank": 2}


def trained(backbone: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for _, layer in adapted_layers(backbone.module):
            layer.lora_B["default"].weight.normal_(std=0.1)
    return backbone


def test_open_clip_loads_it_merged(load: Any, folders: Any, pictures: Any, tmp_path: Path) -> None:
    import open_clip

    backbone = trained(load(folders["clip"], lora=LORA))
    backbone.save(tmp_path / "saved")
    module, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")
    module.eval()
    images = torch.stack([transform(picture.convert("RGB")) for picture in pictures[:3]])
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'saved'}")(list(TEXTS))
    with torch.no_grad():
        pixels = torch.stack([backbone.processor.image(picture) for picture in pictures[:3]])
        found = backbone.encode_image(pixels), backbone.encode_text(ragged(backbone, TEXTS))
        expected = module.encode_image(images, normalize=True), module.encode_text(tokens, normalize=True)
        plain = load(folders["clip"])
        moved = plain.encode_image(pixels), plain.encode_text(ragged(plain, TEXTS))
    for ours, theirs, before in zip(found, expected, moved, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert float((ours - before).abs().max()) > 1e-3
    assert (tmp_path / "saved" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_transformers_loads_it_merged_and_peft_the_adapter(load: Any, folders: Any, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    backbone = trained(load(folders["hf-clip"], lora=LORA))
    backbone.save(tmp_path / "saved")
    ids = torch.arange(3, 13)[None]
    merged = AutoModel.from_pretrained(tmp_path / "saved")
    peer = PeftModel.from_pretrained(AutoModel.from_pretrained(folders["hf-clip"]), str(tmp_path / "saved" / "adapter"))
    with torch.no_grad():
        expected = backbone.module.get_text_features(ids).pooler_output
        for module in (merged, peer):
            torch.testing.assert_close(module.get_text_features(ids).pooler_output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "hf-clip"])
def test_a_locked_tower_gets_no_adapter(load: Any, folders: Any, kind: str) -> None:
    def towers(**config: Any) -> set[bool]:
        names = [name for name, _ in adapted_layers(load(folders[kind], lora=LORA, **config).module)]
        return {name.startswith(("visual", "vision")) for name in names}

    assert towers() == {True, False} and towers(lock_image=True) == {False} and towers(lock_text=True) == {True}


def test_convolutions_get_no_adapter_and_a_projection_behind_them_does(load: Any, folders: Any) -> None:
    names = [name for name, _ in adapted_layers(load(folders["bn"], lora=LORA).module)]
    assert [name for name in names if name.startswith("visual")] == ["visual.head.proj"]


def test_contrastive_training_moves_the_adapter_alone(folders: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from mmalign.cli import run

    sets = ["backbone.lora.rank=2", "train.steps=2", "train.batch_size=8", "train.warmup_steps=0"]
    options = [part for text in (*sets, "evaluation.names=[]") for part in ("--set", text)]
    folder = ["--backbone", str(folders["clip"]), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert run(["train", "--objective", "contrastive", "--dataset", "emoji", *folder, *options]) == 0
    before = load_file(folders["clip"] / "open_clip_model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "open_clip_model.safetensors")
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved and all(".mlp." in name and name.endswith("weight") for name in moved)
