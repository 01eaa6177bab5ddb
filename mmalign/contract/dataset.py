"""What a data set looks like to the rest."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

if TYPE_CHECKING:
    from pydantic import BaseModel


class Dataset(Protocol):
    """Examples of one kind, by index, the same at every call. Picklable; images are referred to, not read."""

    Config: "ClassVar[type[BaseModel]]"

    @classmethod
    def build(cls, config: Any, split: str) -> "Self | None":
        """The part named `split`, one of its spec's `splits`; None where nothing is set aside. Raises DataError."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def report(self) -> Mapping[str, Any]:
        """At least {"kept": int, "skipped": {reason: int}, "source": str}. "ignored": counts of what was never meant to
        be read; "entries": of every row, member or file, once; "notes": sentences that commands print."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the data does; a resumed run compares it."""
        ...


class LabelledDataset(Dataset, Protocol):
    """A data set of image-label or text-label examples; `label` indexes `classes`, the same in all its parts."""

    classes: tuple[str, ...]
