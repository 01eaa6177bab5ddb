"""The specs alone: cheap to import, families told apart, and the classes have what is declared."""

import subprocess
import sys
from typing import Any

import pytest
from mmalign_clip import families

OPEN_CLIP = {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}
COCA = {"model_cfg": {"vision_cfg": {}, "text_cfg": {}, "multimodal_cfg": {}}}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (OPEN_CLIP, "is_open_clip"),
        (COCA, "is_open_clip_coca"),
        ({"model_type": "clip"}, "is_clip"),
        ({"model_type": "siglip"}, "is_siglip"),
        ({"model_type": "gpt2"}, None),
        ({"model_type": "siglip2"}, None),
        ({"model_type": "clip_text_model"}, None),
        ({"model_cfg": 3}, None),
        ({}, None),
    ],
)
def test_one_family_at_most(config: Any, name: str | None) -> None:
    matches = ("is_open_clip", "is_open_clip_coca", "is_clip", "is_siglip")
    assert [match for match in matches if getattr(families, match)(config)] == ([name] if name else [])


def test_the_plugin_imports_nothing_heavy() -> None:
    heavy = "torch transformers open_clip pydantic numpy PIL".split()
    code = (
        f"import mmalign_clip, sys; mmalign_clip.register_backbones(); print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_classes_have_every_declared_method(catalog: Any) -> None:
    for entry in catalog.entries("backbones"):
        if entry.plugin == "mmalign_clip":
            backbone_class = catalog.load(entry)
            declared = set().union(*(family.provides for family in entry.spec.families))
            assert all(callable(getattr(backbone_class, name.method)) for name in declared)
            assert all(field.description for field in backbone_class.Config.model_fields.values())
