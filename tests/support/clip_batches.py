"""A batch for the tiny dual encoders: make_batch(backbone)."""

import torch

from mmalign.contract.batch import Batch, Ragged
from mmalign.testing.models import IMAGE_SIZE


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
