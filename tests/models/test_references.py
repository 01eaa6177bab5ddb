"""References to models: what they resolve to, without importing a model library, and what each mistake says."""

import json
from pathlib import Path

import pytest

from mmalign.errors import CheckpointError, MmalignError, UsageError
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins

CLIP = {"model_type": "clip", "text_config": {}, "vision_config": {}}


def folder_with(path: Path, name: str, config: object) -> Path:
    path.mkdir()
    (path / name).write_text(json.dumps(config), encoding="utf-8")
    return path


def test_folders_find_their_family_from_the_config_alone(tmp_path: Path, catalog: Catalog) -> None:
    hf = folder_with(tmp_path / "hf", "config.json", CLIP)
    towers = {"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {"context_length": 8}}
    oc = folder_with(tmp_path / "oc", "open_clip_config.json", {"model_cfg": towers, "preprocess_cfg": {}})
    for reference, backbone, name in [
        (str(hf), "transformers-clip", "clip"),
        (f"hf:{hf}", "transformers-clip", "clip"),
        (str(oc), "open_clip", "open-clip"),
        (f"open_clip:{oc}", "open_clip", "open-clip"),
        (f"open_clip:local-dir:{oc}", "open_clip", "open-clip"),
    ]:
        source = find_source(reference, catalog)
        assert source.family is not None and source.folder is not None
        assert (source.entry.spec.name, source.family.name) == (backbone, name)


def test_an_architecture_resolves_without_importing_its_library(catalog: Catalog) -> None:
    source = find_source("open_clip:ViT-B-32/openai", catalog)
    assert source.config["model_cfg"]["embed_dim"] == 512
    assert source.name == "ViT-B-32/openai" and source.folder is None


@pytest.mark.parametrize(
    ("reference", "error", "parts"),
    [
        ("clip-lit", UsageError, ("unknown backbone 'clip-lit'", "Did you mean clip-lite", "mmalign list backbones")),
        ("./nowhere", UsageError, ("unknown folder './nowhere'", "mmalign list backbones")),
        ("hf:./nowhere", CheckpointError, ("no folder ./nowhere",)),
        ("open_clip:local-dir:nowhere", CheckpointError, ("no folder ", "nowhere")),
    ],
)
def test_mistakes_in_references(catalog: Catalog, reference: str, error: type, parts: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        find_source(reference, catalog)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("readme.md", "hello", "holds neither open_clip_config.json nor config.json"),
        ("config.json", "{", "not readable as JSON"),
        ("config.json", "[1]", "holds list, not an object"),
        ("config.json", '{"model_type": "bert"}', "no plugin handles 'bert'"),
        ("config.json", '{"model_type": "x", "architectures": ["XForClass"]}', "no plugin handles 'x' (XForClass)"),
    ],
)
def test_folders_that_are_no_model(tmp_path: Path, catalog: Catalog, name: str, text: str, part: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(MmalignError) as caught:
        find_source(str(tmp_path), catalog)
    assert part in str(caught.value)


def test_the_folder_of_a_run_leads_to_its_model(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match=r"Did you mean .*/model\?"):
        find_source(str(tmp_path), catalog)


CLAIMS_ALL = """
from mmalign import BackboneSpec, Family, hookimpl

@hookimpl
def register_backbones():
    family = Family(name="everything", matches=lambda config: True, provides={"encode_text"}, modalities={"text"})
    return [BackboneSpec(name="greedy", summary="s", target="m:T", families=(family,), prefixes=("greedy",))]
"""


def test_two_families_that_match_are_both_named(tmp_path: Path, install) -> None:
    install("greedy-plugin", CLAIMS_ALL)
    hf = folder_with(tmp_path / "hf", "config.json", CLIP)
    catalog = Catalog(load_plugins())
    with pytest.raises(UsageError) as caught:
        find_source(str(hf), catalog)
    assert "greedy-plugin/greedy (everything)" in str(caught.value)
    assert "mmalign_clip/transformers-clip (clip)" in str(caught.value)
    assert find_source(f"hf:{hf}", catalog).entry.spec.name == "transformers-clip"
