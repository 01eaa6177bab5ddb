"""Tiny dual encoders, made once a session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.testing.models import tiny_open_clip, tiny_open_clip_bn


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_open_clip(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_bn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_open_clip_bn(tmp_path_factory.mktemp("tiny-bn") / "model")


@pytest.fixture
def load(catalog: Catalog) -> Callable[..., Any]:
    """load(folder, **options) -> a fresh backbone in float64."""

    def load_backbone(folder: Path, **options: object) -> Any:
        source = find_source(str(folder), catalog)
        backbone_class = catalog.load(source.entry)
        backbone = backbone_class.load(source, backbone_class.Config(**options))
        backbone.module.double()
        return backbone

    return load_backbone
