"""What the tests of the dual encoders share: tower configs, texts, and rows of ids."""

from typing import Any

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
TEXT = {"width": 32, "heads": 2, "layers": 2, "context_length": 77}
TEXTS = ["a photo of a cat", "red", "A Small (bird)!", "", "the car on a tree with fish " * 3]


def ragged(backbone: Any, texts: list[str]) -> Any:
    from mmalign.contract.batch import Ragged

    return Ragged.from_list([backbone.processor.text(text).ids for text in texts])
