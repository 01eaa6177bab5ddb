"""The example kind `text-target`."""

from dataclasses import dataclass
from typing import Any

from mmalign.contract.examples import Kept


@dataclass(frozen=True)
class TextTarget:
    """A text and the embedding [D], a float32 array of unit length, that it should have."""

    key: Kept
    text: str
    target: Any
