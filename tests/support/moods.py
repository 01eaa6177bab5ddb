"""A third party's labelled kind of example, and a data set that names one class too few."""

from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Kept

PLUGIN = """
from mmalign import DatasetSpec, ExampleSpec, hookimpl

@hookimpl
def register_examples():
    return [ExampleSpec(name="mood", summary="A text and its mood", target="tests.support.moods:Mood",
                        modalities=("text",), samples="tests.support.moods:moods")]

@hookimpl
def register_datasets():
    return [DatasetSpec(name="moods", summary="Invented moods", target="tests.support.moods:Moods", kind="mood")]
"""


@dataclass(frozen=True)
class Mood:
    """A text and its mood."""

    key: Kept
    text: str
    label: int


def moods(size: int) -> list[Mood]:
    return [Mood(f"mood:{i}", f"text {i}", i % 3) for i in range(size)]


class Moods:
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        size: int = Field(16, ge=2, description="examples, a quarter of them held out")

    classes = ("sad", "glad")

    def __init__(self, examples: list[Mood]) -> None:
        self._examples = examples

    @classmethod
    def build(cls, config: Any, split: str) -> Self:
        held_out = config.size // 4
        examples = moods(config.size)
        return cls(examples[held_out:] if split == "train" else examples[:held_out])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Mood:
        return self._examples[index]

    def report(self) -> dict[str, Any]:
        return {"kept": len(self), "skipped": {}, "source": "invented"}

    def fingerprint(self) -> str:
        return f"moods {len(self)}"
