"""A tiny open_clip model and a few pictures, made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmalign.testing.models import tiny_open_clip

    return tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmalign.testing.models import tiny_siglip_like

    return tiny_siglip_like(tmp_path_factory.mktemp("models") / "siglip")


@pytest.fixture(scope="session")
def load_folder(catalog: Any) -> Callable[[Path], tuple[Any, Any]]:
    """folder -> (source, backbone)."""
    from mmalign.models.references import find_source

    def load(folder: Path) -> tuple[Any, Any]:
        source = find_source(str(folder), catalog)
        backbone_class = catalog.load(source.entry)
        return source, backbone_class.load(source, backbone_class.Config())

    return load


@pytest.fixture(scope="session")
def tiny(model_folder: Path, load_folder: Any) -> tuple[Any, Any]:
    """(source, backbone)."""
    return load_folder(model_folder)


@pytest.fixture(scope="session")
def siglip(siglip_folder: Path, load_folder: Any) -> tuple[Any, Any]:
    return load_folder(siglip_folder)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cat/0-3.jpg and dog/0-3.jpg of noise, all different."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(4):
            coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 48), Image.Resampling.NEAREST).save(folder / name / f"{number}.jpg")
    return folder
