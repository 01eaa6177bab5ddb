"""The interface of data sets."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from pydantic import BaseModel


class Dataset(Protocol):
    """Examples of one kind, by index, the same at every call. Picklable. Holds references to images, not pixels."""

    Config: "ClassVar[type[BaseModel]]"

    @classmethod
    def build(cls, config: Any, split: str) -> "Self | None":
        """The split of that name, one of the spec's `splits`; None if the data has no such split. Raises DataError."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def report(self) -> Mapping[str, Any]:
        """At least {"kept": int, "skipped": {reason: int}, "source": str}. "ignored": counts of entries that
        are no examples; "entries": counts in which every row, member or file is counted once; "notes": sentences that
        commands print."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the data does; a resumed run compares it."""
        ...


@runtime_checkable
class ListsAnswers(Protocol):
    """A data set that gives its answers without its pictures, which may take long to read."""

    def text_answers(self) -> Iterable[str]:
        """Every answer that is a text, in order; of prompts, the solutions."""
        ...


class LabelledDataset(Dataset, Protocol):
    """A data set of image-label or text-label examples. `label` indexes `classes`, which all splits share."""

    classes: tuple[str, ...]
