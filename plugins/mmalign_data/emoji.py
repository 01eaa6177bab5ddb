"""The embedded `emoji` data: about 1,900 drawings of Google's Noto font with their names and tags.

    mmalign train --objective contrastive --dataset emoji

Training has one example for each drawing and text. The texts are "a drawing of a {name}" for each of its names, and its
tags in a row; the texts of one drawing share a group. Validation has drawings of names never trained on, each once,
with its name. Variants of a drawing (a man, a woman or a person running) are on the same side. A held-out name that is
also a short name or a tag of another drawing is left out of that drawing's texts.

    mmalign train -c drawing-groups

With `answers: group` the one text of a drawing says which of nine groups it belongs to, such as "a drawing of a flag".
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Completion, ImageRef, ImageText, Prompt
from mmalign.errors import DataError
from mmalign.hashing import stable_hash

FOLDER = Path(__file__).parent / "emoji"
TEMPLATE = "a drawing of a {}"
GROUPS = {
    "Smileys & Emotion": "a drawing of a face or a feeling",
    "People & Body": "a drawing of a person or a part of the body",
    "Animals & Nature": "a drawing of an animal or a plant",
    "Food & Drink": "a drawing of food or drink",
    "Travel & Places": "a drawing of a place, a vehicle or the sky",
    "Activities": "a drawing of a sport, a game or a celebration",
    "Objects": "a drawing of clothing, a tool or another thing",
    "Symbols": "a drawing of a sign or a symbol",
    "Flags": "a drawing of a flag",
}
"""Unicode's groups -> a text."""


_AS: dict[str, Callable[[ImageText], Any]] = {
    "image-text": lambda pair: pair,
    "completion": lambda pair: Completion(pair.key, pair.image, pair.text),
    "prompt": lambda pair: Prompt(pair.key, pair.image, pair.text),
}


class EmojiConfig(BaseModel):
    """Options of the emoji data."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["image-text", "completion", "prompt"] = Field(
        "image-text",
        description="image-text: drawings with texts; completion: drawings as prompts, with their names as answers; "
        "prompt: drawings as prompts, with their names as solutions",
    )
    answers: Literal["name", "group"] = Field(
        "name", description="name: texts say what a drawing shows; group: which of nine groups that belongs to"
    )
    holdout: float = Field(
        0.08, ge=0, lt=1, description="Fraction of names kept for validation and never trained on (0-1)"
    )


class Emoji:
    """Image-text pairs, see the module."""

    Config: ClassVar[type[BaseModel]] = EmojiConfig

    def __init__(self, examples: list[Any]) -> None:
        self._examples = examples

    @classmethod
    def build(cls, config: EmojiConfig, split: str) -> Self | None:
        """The part named `split`; raises DataError if the installation lacks the files."""
        held_out = split == "validation"
        if held_out and not config.holdout:
            return None
        glyphs = glyphs_of(split, config.holdout)
        if config.answers == "group":
            texts = [(glyph, [GROUPS[glyph["group"]]]) for glyph in glyphs]
        elif held_out:
            texts = [(glyph, [TEMPLATE.format(glyph["name"])]) for glyph in glyphs]
        else:
            names = {glyph["name"].lower() for glyph in glyphs_of("validation", config.holdout)}
            texts = [(glyph, _captions(glyph, names)) for glyph in glyphs]
        if config.kind != "image-text":
            texts = [(glyph, captions[:1]) for glyph, captions in texts]
        pairs = (example for glyph, captions in texts for example in _examples(glyph, captions))
        return cls([_AS[config.kind](pair) for pair in pairs])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Any:
        return self._examples[index]

    def report(self) -> Mapping[str, Any]:
        """Counts: kept examples, and drawings; none is skipped."""
        drawings = len({_drawing(example) for example in self._examples})
        return {"kept": len(self), "skipped": {}, "source": "emoji (embedded)", "drawings": drawings}

    def fingerprint(self) -> str:
        """A hash of the texts and of the drawings' positions."""
        digest = hashlib.sha256(repr(self._examples).replace(str(FOLDER), "").encode())
        return digest.hexdigest()[:16]


def glyphs_of(split: str, holdout: float) -> list[dict[str, Any]]:
    """The drawings of a part: "validation" has the fraction `holdout` of all names, "train" the rest. Raises
    DataError."""
    glyphs = _index()
    kept = [glyph for glyph in glyphs if stable_hash("holdout", glyph["family"]) / 2**64 < holdout]
    names = {glyph["name"].lower() for glyph in kept}
    return kept if split == "validation" else [glyph for glyph in glyphs if glyph["name"].lower() not in names]


def drawing(glyph: Mapping[str, Any]) -> ImageRef:
    """64 pixels square, transparent around."""
    return ImageRef(str(FOLDER / "emoji.zip"), glyph["offset"], glyph["size"])


def _index() -> list[dict[str, Any]]:
    path = FOLDER / "emoji.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        hint = "Install mmalign again: python -m pip install --force-reinstall mmalign"
        raise DataError(f"{path}: the embedded data are damaged: {error}", hint=hint) from error


def _captions(glyph: Mapping[str, Any], held_out: AbstractSet[str]) -> list[str]:
    captions = [TEMPLATE.format(text) for text in glyph["texts"] if text.lower() not in held_out]
    tags = [tag for tag in glyph["tags"] if tag.lower() not in held_out]
    return [*captions, ", ".join(tags)] if tags else captions


def _examples(glyph: Mapping[str, Any], captions: list[str]) -> list[ImageText]:
    name = glyph["name"]
    return [
        ImageText(key=f"emoji:{name}" + f":{number}" * bool(number), image=drawing(glyph), text=caption, group=name)
        for number, caption in enumerate(captions)
    ]


def _drawing(example: Any) -> ImageRef:
    return example.image if isinstance(example, ImageText) else example.prompt
