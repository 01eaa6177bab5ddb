"""How sequences lie in the rows that a trunk reads: packed behind shared prompts, or one answer a row.

    layout = packed(sequences, capacity=512)         # needs a trunk that takes a 4-D mask and positions
    layout = bucketed(sequences)                     # any causal trunk: right-padded rows of like length
    states = run each layout.grids ..., flattened and joined
    states[layout.predict]                           # [P, H]: what predicts layout.labels

R rows of T tokens a grid; P labels; M answers. "Flat" counts positions through all grids, row after row.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmalign.data.sequences import Sequences

_MAX_PADDING = 0.1
_BUDGET = 16_384


@dataclass(frozen=True)
class Grid:
    """One call of the trunk. ids, positions: [R, T] int64. real: [R, T] bool, no padding. unit, part: [R, T] int64 of a
    packed grid, else None: which prompt a token belongs to (-1: padding), and whether to the prompt itself (0) or to
    which of its answers (1, 2, ...)."""

    ids: Tensor
    positions: Tensor
    real: Tensor
    unit: Tensor | None = None
    part: Tensor | None = None

    def lengths(self) -> Tensor:
        """[R, T] int64: how many tokens the example of each has; a packed one is a prompt with all its answers. At
        least 1, also at padding."""
        if self.unit is None:
            return self.real.sum(1, keepdim=True).clamp(min=1).expand_as(self.ids)
        owner = self.unit.clamp(min=0)
        if not owner.numel():
            return owner
        counts = torch.zeros(int(owner.max()) + 1, dtype=torch.int64, device=owner.device)
        return counts.index_add(0, owner.flatten(), self.real.flatten().long())[owner].clamp(min=1)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[R, 1, T, T], to be added to scores: 0 where row i may see column j, else the lowest number of `dtype`.

        Additive, because eager attention misreads a boolean one in silence. Padding sees itself, so that no row is
        empty. Raises ValueError for a bucketed grid, whose mask is `real`.
        """
        if self.unit is None or self.part is None:
            raise ValueError("a bucketed grid has no 4-D mask")
        same = self.unit[:, :, None] == self.unit[:, None, :]
        visible = (self.part[:, None, :] == 0) | (self.part[:, :, None] == self.part[:, None, :])
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        seen = (same & visible & causal)[:, None]
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


@dataclass(frozen=True)
class Layout:
    """predict: [P] flat positions; labels: [P] ids; offsets: [M + 1] of the labels of each answer, on the CPU.

    last: [M] flat positions of each answer's last token.
    """

    grids: tuple[Grid, ...]
    predict: Tensor
    labels: Tensor
    offsets: Tensor
    last: Tensor


def packed(sequences: Sequences, capacity: int, attention: float = 0.0) -> Layout:
    """Every prompt once, its answers behind it; prompts with their answers share rows of `capacity` tokens, best fit.

    What is longer than the capacity is dealt to copies of the prompt where they cost little (`Sequences.dealt`), and
    else makes all rows as long as it is; rows that need not be that long are not. attention: what a token pays for each
    token of its row, beside what it costs itself; where that is cheaper, rows are half or a quarter as long.
    """
    sequences, (rows, starts, width) = _cheapest(sequences, capacity, attention)
    prompt_lengths, answer_lengths, owner = sequences.prompts.lengths, sequences.answers.lengths, sequences.owner
    before = answer_lengths.cumsum(0) - answer_lengths
    first = sequences.counts.cumsum(0) - sequences.counts  # the first answer of each prompt
    # An answer's place in its unit; a prompt without answers never asks for it.
    behind = before - torch.cat([before, before.new_zeros(1)])[first][owner] + prompt_lengths[owner]
    base = rows * width + starts
    part = torch.arange(len(owner)) - first[owner] + 1
    zeros = torch.zeros(len(sequences), dtype=torch.int64)
    segments = _Segments(
        lengths=torch.cat([prompt_lengths, answer_lengths]),
        flat=torch.cat([base, base[owner] + behind]),
        position=torch.cat([zeros, prompt_lengths[owner]]),
        unit=torch.cat([torch.arange(len(sequences)), owner]),
        part=torch.cat([zeros, part]),
    )
    num_rows = int(rows.max()) + 1 if len(rows) else 0
    tokens = torch.cat([sequences.prompts.values, sequences.answers.values])
    grid = _grid(tokens, segments, num_rows, width, packed=True)
    return _finish(sequences, (grid,), segments.flat[len(sequences) :], (base + prompt_lengths - 1)[owner])


def bucketed(sequences: Sequences) -> Layout:
    """One answer a row behind a copy of its prompt, padded on the right; rows of like length share a grid."""
    prompt_lengths, answer_lengths, owner = sequences.prompts.lengths, sequences.answers.lengths, sequences.owner
    totals = prompt_lengths[owner] + answer_lengths
    grids, base, done = [], torch.zeros(len(owner), dtype=torch.int64), 0
    for rows in _buckets(totals.tolist()):
        index = torch.tensor(rows)
        width = int(totals[index].max())
        starts = torch.arange(len(rows)) * width
        prompts = sequences.prompts.select(owner[index].tolist())
        answers = sequences.answers.select(rows)
        segments = _Segments(
            lengths=torch.cat([prompts.lengths, answers.lengths]),
            flat=torch.cat([starts, starts + prompts.lengths]),
            position=torch.cat([torch.zeros_like(starts), prompts.lengths]),
            unit=torch.cat([torch.arange(len(rows))] * 2),
            part=torch.zeros(2 * len(rows), dtype=torch.int64),
        )
        tokens = torch.cat([prompts.values, answers.values])
        grids.append(_grid(tokens, segments, len(rows), width, packed=False))
        base[index] = done + starts
        done += len(rows) * width
    start = base + prompt_lengths[owner]
    return _finish(sequences, tuple(grids), start, start - 1)


@dataclass(frozen=True)
class _Segments:
    """Runs of tokens, in the order of a tensor of tokens: [S] each. flat: where a run starts; position: its first
    position id."""

    lengths: Tensor
    flat: Tensor
    position: Tensor
    unit: Tensor
    part: Tensor


def _grid(tokens: Tensor, segments: _Segments, num_rows: int, width: int, *, packed: bool) -> Grid:
    run = torch.repeat_interleave(torch.arange(len(segments.lengths)), segments.lengths)
    within = torch.arange(len(run)) - (segments.lengths.cumsum(0) - segments.lengths)[run]
    place = (segments.flat[run] + within).to(tokens.device)

    def scatter(values: Tensor, fill: int) -> Tensor:
        out = torch.full((num_rows * width,), fill, dtype=torch.int64, device=tokens.device)
        out[place] = values.to(tokens.device)
        return out.view(num_rows, width)

    unit = scatter(segments.unit[run], -1)
    return Grid(
        scatter(tokens, 0),
        scatter(segments.position[run] + within, 0),
        unit >= 0,
        unit if packed else None,
        scatter(segments.part[run], 0) if packed else None,
    )


def _finish(sequences: Sequences, grids: tuple[Grid, ...], start: Tensor, before: Tensor) -> Layout:
    """start: [M] flat positions of each answer's first token; before: of what precedes it."""
    answers, device = sequences.answers, sequences.answers.values.device
    lengths = answers.lengths
    row = torch.repeat_interleave(torch.arange(len(answers)), lengths)
    within = torch.arange(len(row)) - answers.offsets[:-1][row]
    predict = torch.where(within == 0, before[row], start[row] + within - 1)
    chosen = sequences.is_label
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sequences.num_labels().cumsum(0)])
    last = torch.where(lengths > 0, start + lengths - 1, before)
    return Layout(grids, predict.to(device)[chosen], answers.values[chosen], offsets, last.to(device))


def _cheapest(sequences: Sequences, capacity: int, attention: float) -> tuple[Sequences, tuple[Tensor, Tensor, int]]:
    """The sequences as dealt, and `_narrowest` of their units, for the cheapest of a few capacities."""
    found: dict[float, tuple[Sequences, tuple[Tensor, Tensor, int]]] = {}
    for tried in (capacity, capacity // 2, capacity // 4) if attention else (capacity,):
        dealt = sequences.dealt(tried)
        units = dealt.prompts.lengths.index_add(0, dealt.owner, dealt.answers.lengths)
        rows, starts, width = _narrowest(units.tolist(), tried)
        area = (int(rows.max()) + 1) * width if len(rows) else 0
        found.setdefault(area * (1 + attention * width), (dealt, (rows, starts, width)))
    return found[min(found)]


def _narrowest(lengths: Sequence[int], capacity: int) -> tuple[Tensor, Tensor, int]:
    """`_best_fit` in as few rows as `capacity` allows, each as short as that number of rows allows."""
    found = _best_fit(lengths, capacity)
    num_rows = int(found[0].max()) + 1 if lengths else 0
    if num_rows < 2:
        return found
    width = max(-(-sum(lengths) // num_rows), *lengths)
    while width < found[2]:
        tighter = _best_fit(lengths, width)
        if int(tighter[0].max()) < num_rows:
            return tighter
        width += max(1, width // 64)
    return found


def _best_fit(lengths: Sequence[int], capacity: int) -> tuple[Tensor, Tensor, int]:
    """(row, start, width) of each length: longest first, each into the fullest row that still has room (BFD)."""
    width = min(max([capacity, *lengths]), sum(lengths)) if lengths else 0
    rows, starts = [0] * len(lengths), [0] * len(lengths)
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    num_rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(room, (lengths[index], -1))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = width, num_rows
            num_rows += 1
        rows[index], starts[index] = row, width - left
        insort(room, (left - lengths[index], row))
    used = max((start + length for start, length in zip(starts, lengths, strict=True)), default=0)
    # No row may be full: then the rows are only as long as the fullest.
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(starts, dtype=torch.int64), used


def _buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Indices, longest first, in groups of at most 16,384 tokens whose padding stays under a tenth of them."""
    groups: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        total += lengths[index]
        area = lengths[groups[-1][0]] * (len(groups[-1]) + 1) if groups else 0
        if groups and total >= (1 - _MAX_PADDING) * area and area <= _BUDGET:
            groups[-1].append(index)
        else:
            groups.append([index])
            total = lengths[index]
    return groups
