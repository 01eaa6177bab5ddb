"""The embedded `wordnet` data: definitions of WordNet, each with the words that have that sense.

    mmalign train --objective contrastive --backbone gpt-mini --dataset wordnet

An example's anchor is a definition ("a serviceman in the artillery"), its positive a word with that sense
("artilleryman"): training has one example for each sense and word. Validation has words that no training example has,
the commonest sense of each, as a reversed dictionary is asked for them. WordNet 3.1 (Fellbaum 1998), the senses that
occur in its tagged texts, the commonest first (`examples/embedded_data/prepare_wordnet.py`).
"""

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import TextPair
from mmalign.errors import DataError
from mmalign.hashing import stable_hash

FOLDER = Path(__file__).parent / "wordnet"


class WordNetConfig(BaseModel):
    """Options of the definitions."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    held_out: int = Field(2000, ge=0, le=5000, description="number of words kept for validation and never trained on")
    swap: bool = Field(False, description="words as anchors and definitions as positives, to look words up")


class WordNet:
    """Text pairs, see the module."""

    Config: ClassVar[type[BaseModel]] = WordNetConfig

    def __init__(self, examples: list[TextPair]) -> None:
        self._examples = examples

    @classmethod
    def build(cls, config: WordNetConfig, split: str) -> Self | None:
        """The part named `split`; raises DataError if the installation lacks the file."""
        if split not in ("train", "validation") or (split == "validation" and not config.held_out):
            return None
        senses = _senses()
        kept = _held_out(senses, config.held_out)
        if split == "validation":
            chosen = [(number, senses[number]["words"][0]) for number in kept.values()]
        else:
            chosen = [
                (number, word)
                for number, sense in enumerate(senses)
                if sense["words"][0].lower() not in kept
                for word in sense["words"]
                if word.lower() not in kept
            ]
        return cls([_example(number, word, senses[number]["definition"], config.swap) for number, word in chosen])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> TextPair:
        return self._examples[index]

    def report(self) -> Mapping[str, Any]:
        """Counts: kept examples; none is skipped."""
        return {"kept": len(self), "skipped": {}, "source": "wordnet (embedded)"}

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self._examples).encode()).hexdigest()[:16]


def _senses() -> list[dict[str, Any]]:
    """{"words", "definition"} of each sense, the commonest first."""
    path = FOLDER / "senses.jsonl.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError, EOFError) as error:
        hint = "Install mmalign again: python -m pip install --force-reinstall mmalign"
        raise DataError(f"{path}: the embedded data are damaged: {error}", hint=hint) from error


def _held_out(senses: list[dict[str, Any]], number: int) -> dict[str, int]:
    """Word in small letters -> its commonest sense: the first words of senses, those of the lowest hashes."""
    first: dict[str, int] = {}
    for place, sense in enumerate(senses):
        first.setdefault(sense["words"][0].lower(), place)
    chosen = sorted(first, key=lambda word: stable_hash("holdout", word))[:number]
    return {word: first[word] for word in sorted(chosen, key=first.__getitem__)}


def _example(number: int, word: str, definition: str, swap: bool) -> TextPair:
    sides = (word, definition) if swap else (definition, word)
    return TextPair(f"wordnet:{number}:{word}", *sides)
