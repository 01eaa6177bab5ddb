"""Weights are float32, whatever precision a config names and whatever precision they were saved in."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmalign.testing import models
from tests.support.gguf_samples import tiny_gguf

LANGUAGE = ("tiny_llama", "tiny_gpt2", "tiny_bloom")
KINDS = (*LANGUAGE, "tiny_reward_model", "tiny_transformers_clip", "tiny_transformers_siglip")


@pytest.fixture(scope="module")
def half_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models as most are published: weights in half precision, and a config that says so, also of its towers."""
    root, folders = tmp_path_factory.mktemp("half"), {}
    for kind in KINDS:
        folder = folders[kind] = vars(models)[kind](root / kind)
        stated = json.loads((folder / "config.json").read_text())
        for level in (stated, stated.get("text_config", {}), stated.get("vision_config", {})):
            level["dtype"] = "float16"
        (folder / "config.json").write_text(json.dumps(stated))
        halved = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
    return folders


def precisions(module: torch.nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in module.parameters()}


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in KINDS] + [(k, {"random_weights": True}) for k in KINDS if k != "tiny_reward_model"],
)
def test_a_config_in_half_precision_gives_float32(load_lm, half_folders, kind, options, tmp_path) -> None:
    backbone = load_lm(half_folders[kind], **options)
    assert precisions(backbone.module) == {torch.float32}
    backbone.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("kind", [*LANGUAGE, "tiny_transformers_clip"])
def test_random_weights_are_those_of_a_config_without_a_precision(load_lm, half_folders, kind, tmp_path) -> None:
    """Drawn in float32, not widened from half."""
    plain = Path(shutil.copytree(half_folders[kind], tmp_path / "plain"))
    stated = json.loads((plain / "config.json").read_text())
    for level in (stated, stated.get("text_config", {}), stated.get("vision_config", {})):
        level.pop("dtype", None)
    (plain / "config.json").write_text(json.dumps(stated))
    drawn = []
    for folder in (half_folders[kind], plain):
        torch.manual_seed(0)
        drawn.append(load_lm(folder, random_weights=True).module.state_dict())
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())


def test_a_reward_model_of_it_and_its_critic(load_lm, half_folders, tmp_path) -> None:
    backbone = load_lm(half_folders["tiny_llama"])
    assert backbone.save_scorer(tmp_path / "scorer", torch.nn.Linear(32, 1, bias=False), 0.0)
    critic = backbone.scorer_copy(tmp_path / "scorer")
    assert precisions(critic.backbone.module) == precisions(critic.head) == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf")
def test_random_weights_of_a_gguf_file(load_lm, tmp_path) -> None:
    backbone = load_lm(tiny_gguf(tmp_path / "model.gguf"), random_weights=True)
    assert precisions(backbone.module) == {torch.float32}


def test_the_embedded_model_from_random_weights(catalog) -> None:
    """Its config says float16."""
    from mmalign.models.references import find_source

    source = find_source("gpt-mini", catalog)
    backbone_class = catalog.load(source.entry)
    backbone = backbone_class.load(source, backbone_class.Config(random_weights=True))
    assert precisions(backbone.module) == {torch.float32}
