"""A batch: N examples as named columns, some of them ragged.

batch = Batch({"image": pixels, "text": Ragged.from_list([ids, ids]), "key": ("a", "b")})
len(batch); batch["text"].lengths; batch.select([1]); batch.to("cuda"); batch.cost()
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """N rows of unequal length. values: [total, ...]; offsets: [N + 1] int64 on the CPU, offsets[0] = 0."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def from_list(cls, rows: Sequence[Tensor]) -> "Ragged":
        """Join rows of shape [T_i, ...]; an empty list gives no rows of int64."""
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        values = torch.cat(list(rows)) if rows else torch.zeros(0, dtype=torch.int64)
        return cls(values, lengths.cumsum(0))

    @classmethod
    def of_lengths(cls, values: Tensor, lengths: Tensor) -> "Ragged":
        """values: [total, ...]; lengths: [N] int64 on the CPU."""
        return cls(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """[N] int64."""
        return self.offsets.diff()

    def rows(self) -> list[Tensor]:
        return list(self.values.split(self.lengths.tolist()))

    def select(self, indices: Sequence[int]) -> "Ragged":
        rows = self.rows()
        if not len(indices):
            return Ragged(self.values[:0], torch.zeros(1, dtype=torch.int64))
        return Ragged.from_list([rows[i] for i in indices])

    def to(self, device: "torch.device | str") -> "Ragged":
        return Ragged(self.values.to(device, non_blocking=True), self.offsets)

    def num_tokens(self) -> int:
        """The number of values if they are ids; 0 for floats, which describe tokens of another column."""
        return 0 if self.values.is_floating_point() else len(self.values)

    def row_bytes(self) -> list[bytes]:
        """The bytes of each row's values."""
        return [row.cpu().numpy().tobytes() for row in self.rows()]

    def padded(self, fill: int, length: int | None = None) -> Tensor:
        """[N, length] right-padded with `fill`; length defaults to the longest row."""
        lengths = self.lengths
        width = int(lengths.max()) if length is None and len(self) else int(length or 0)
        out = self.values.new_full((len(self), width, *self.values.shape[1:]), fill)
        row = torch.repeat_interleave(torch.arange(len(self)), lengths)
        column = torch.arange(len(self.values)) - self.offsets[:-1].repeat_interleave(lengths)
        out[row.to(out.device), column.to(out.device)] = self.values
        return out


class Rows(Protocol):
    """A column that is neither a tensor nor a tuple: N rows with methods to select and move them."""

    def __len__(self) -> int: ...

    def select(self, indices: Sequence[int]) -> "Rows": ...

    def to(self, device: "torch.device | str") -> "Rows": ...

    def num_tokens(self) -> int: ...

    def row_bytes(self) -> list[bytes]: ...


Column = Tensor | Rows | tuple[Any, ...]


class UnknownColumn(KeyError):
    """A batch has no column of that name."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message's repr


class Batch:
    """N examples as columns: tensors [N, ...], ragged rows, or tuples of N Python objects. `len` is N.

    stream: the stream of examples that the batch comes from; "main", or one of the objective's side streams.
    """

    def __init__(self, columns: Mapping[str, Column], *, stream: str = "main", size: int | None = None) -> None:
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of a batch differ in length: {lengths}")
        self._columns = dict(columns)
        self._size = size if size is not None else next(iter(lengths.values()), 0)
        self.stream = stream

    def __getitem__(self, name: str) -> Any:
        """Raises UnknownColumn, which lists the batch's columns."""
        if name not in self._columns:
            known = ", ".join(sorted(self._columns)) or "none, as in the loss of a coupled objective"
            raise UnknownColumn(
                f"the batch has no column {name!r}; its columns: {known}. docs/plugins.md lists those of each kind"
            )
        return self._columns[name]

    def __len__(self) -> int:
        return self._size

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    @property
    def columns(self) -> Mapping[str, Column]:
        return self._columns

    @property
    def device(self) -> torch.device:
        """The device of the first tensor; the CPU if there is none."""
        tensors = (c for c in self._columns.values() if isinstance(c, Tensor))
        return next(tensors, torch.zeros(0)).device

    def of_stream(self, name: str) -> "Batch":
        return Batch(self._columns, stream=name, size=self._size)

    def with_columns(self, **columns: Column) -> "Batch":
        """A copy with these columns added or replaced."""
        return Batch({**self._columns, **columns}, stream=self.stream, size=self._size)

    def select(self, indices: Sequence[int]) -> "Batch":
        """The examples at `indices`, in that order."""
        index = torch.as_tensor(indices, dtype=torch.int64)

        def pick(column: Column) -> Column:
            if isinstance(column, Tensor):
                return column[index.to(column.device)]
            if isinstance(column, tuple):
                return tuple(column[i] for i in indices)
            return column.select(indices)

        columns = {name: pick(column) for name, column in self._columns.items()}
        return Batch(columns, stream=self.stream, size=len(indices))

    def split(self, size: int) -> "list[Batch]":
        """Micro-batches of at most `size` examples, in order."""
        if size >= len(self):
            return [self]
        return [self.select(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)]

    def to(self, device: "torch.device | str") -> "Batch":
        def move(column: Column) -> Column:
            if isinstance(column, Tensor):
                return column.to(device, non_blocking=True)
            return column if isinstance(column, tuple) else column.to(device)

        columns = {name: move(column) for name, column in self._columns.items()}
        return Batch(columns, stream=self.stream, size=self._size)

    def cost(self) -> int:
        """The number of tokens in all columns; without tokens, the number of examples."""
        columns = (column for column in self._columns.values() if not isinstance(column, Tensor | tuple))
        return sum(column.num_tokens() for column in columns) or len(self)
