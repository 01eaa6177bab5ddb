"""A classifier of pictures that `mmalign train --objective classify` saved: a dual encoder with head.safetensors and
classes.json beside it.

    classifier = PictureClassifier.load("runs/classify/model")
    classifier("cat.jpg", "dog.jpg")                    # ["cat", "dog"]
    classifier.probabilities(["cat.jpg"])               # [1, C], in the order of classifier.classes

p(c | x) = softmax_c(W f(x)), f: the image tower, unit length [D]; W: the head [C, D].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmalign.contract.examples import ImageRef
from mmalign.data.images import open_image
from mmalign.errors import CheckpointError
from mmalign.models.load import load_model, require_source
from mmalign.reading import read_json
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins

if TYPE_CHECKING:
    from mmalign.contract.backbone import DualEncoder


@dataclass(frozen=True)
class PictureClassifier:
    """weight: [C, D]."""

    backbone: "DualEncoder"
    weight: Tensor
    classes: tuple[str, ...]

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Raises CheckpointError for a folder without a head and classes that fit each other, and the errors of
        `load_model`."""
        path = Path(folder).expanduser()
        try:
            weight, classes = load_file(path / "head.safetensors")["weight"], read_json(path / "classes.json")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} is no classifier of pictures: {error}",
                hint="Train one: mmalign train --objective classify --backbone clip-lite --dataset FOLDER",
            ) from error
        if len(classes) != len(weight):
            raise CheckpointError(f"{folder}: {len(classes)} classes and a head of {len(weight)} rows")
        catalog = Catalog(load_plugins())
        source = require_source(catalog, str(path), ("encode_image",), "a classifier of pictures")
        return cls(load_model(catalog, source, needs=("encode_image",), frozen=True), weight, tuple(classes))

    def __call__(self, *pictures: str) -> list[str]:
        """The most probable class of each picture file. Raises BadSample."""
        return [self.classes[place] for place in self.probabilities(pictures).argmax(1).tolist()]

    @torch.no_grad()
    def probabilities(self, pictures: Sequence[str]) -> Tensor:
        """[N, C]. Raises BadSample for a file that is no picture."""
        processor = self.backbone.processor
        pixels = torch.stack([processor.image(open_image(ImageRef(picture))) for picture in pictures])
        return (self.backbone.encode_image(pixels).to(self.weight) @ self.weight.T).softmax(1)
