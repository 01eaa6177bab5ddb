"""Tiny language models of several families, made once a session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_samples import FAMILIES

from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.testing import models


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog(load_plugins())


@pytest.fixture(scope="session")
def lm_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("language-models")
    return {name: vars(models)[name](root / name) for name in FAMILIES}


@pytest.fixture(scope="session")
def load_lm(catalog: Catalog) -> Callable[..., Any]:
    """(folder, **options) -> backbone."""

    def load(folder: Path, **options: Any) -> Any:
        source = find_source(str(folder), catalog)
        backbone_class = catalog.load(source.entry)
        return backbone_class.load(source, backbone_class.Config(**options))

    return load
