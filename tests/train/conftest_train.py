"""Tiny dual encoders, objectives and batches for the engine's tests."""

from pathlib import Path

import pytest
import torch

from mmalign.contract.batch import Batch, Ragged
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.testing.models import IMAGE_SIZE, tiny_open_clip, tiny_open_clip_bn


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog(load_plugins())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_open_clip(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_bn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_open_clip_bn(tmp_path_factory.mktemp("tiny-bn") / "model")


@pytest.fixture
def load(catalog: Catalog):
    """load(folder, **options) -> a fresh backbone in float64."""

    def load_backbone(folder: Path, **options: object):
        source = find_source(str(folder), catalog)
        backbone_class = catalog.load(source.entry)
        backbone = backbone_class.load(source, backbone_class.Config(**options))
        backbone.module.double()
        return backbone

    return load_backbone


def make_batch(backbone, size: int = 8, seed: int = 0) -> Batch:
    """Random pictures with captions of unequal length; the last caption repeats the first."""
    generator = torch.Generator().manual_seed(seed)
    captions = [
        f"a photo of a {word}" + " and a small dog" * (index % 3)
        for index, word in enumerate(("cat", "dog", "bird", "fish", "car", "tree", "house", "red car")[: size - 1])
    ]
    captions.append(captions[0])
    tokens = [backbone.processor.text(caption).ids for caption in captions]
    return Batch(
        {
            "image": torch.randn(size, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64),
            "text": Ragged.from_list(tokens),
            "caption": tuple(captions),
            "key": tuple(map(str, range(size))),
            "group": ("",) * size,
        }
    )
