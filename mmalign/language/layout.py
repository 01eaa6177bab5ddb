"""How sequences are laid out in the rows of a trunk: packed behind shared prompts, or one answer a row.

    layout = packed(sequences, capacity=512)         # needs a trunk that takes a 4-D mask and positions
    layout = bucketed(sequences)                     # any causal trunk: right-padded rows of similar length
    layout = bucketed(sequences, padded=False)       # only rows of equal length share a call
    states = run each layout.grids ..., flattened and joined
    states_at(states, layout.predict)                # [P, H]: the states that predict layout.labels

A grid has R rows of T tokens; P labels; M answers. "Flat" positions are counted through all grids, row after row.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mmalign.language.sequences import Sequences

_MAX_PADDING = 0.1
_BUDGET = 16_384


@dataclass(frozen=True)
class Grid:
    """The input of one call of the trunk. ids, positions: [R, T] int64. real: [R, T] bool, False at padding. unit,
    part: [R, T] int64 in a packed grid, else None. unit: the prompt that a token belongs to (-1: padding); part: 0 for
    the prompt's own tokens, k for those of its k-th answer. full: one example a row and no padding, so the trunk needs
    neither mask nor positions."""

    ids: Tensor
    positions: Tensor
    real: Tensor
    unit: Tensor | None = None
    part: Tensor | None = None
    full: bool = False

    def lengths(self) -> Tensor:
        """[R, T] int64: the number of tokens of the example that each token belongs to; in a packed grid an example is
        a prompt with all its answers. At least 1, at padding too."""
        if self.unit is None:
            return self.real.sum(1, keepdim=True).clamp(min=1).expand_as(self.ids)
        owner = self.unit.clamp(min=0)
        if not owner.numel():
            return owner
        counts = torch.zeros(int(owner.max()) + 1, dtype=torch.int64, device=owner.device)
        return counts.index_add(0, owner.flatten(), self.real.flatten().long())[owner].clamp(min=1)

    def mask(self, dtype: torch.dtype, *, bidirectional: bool = False) -> Tensor:
        """[R, 1, T, T], added to attention scores: 0 where row i may see column j, else the lowest number of `dtype`.
        bidirectional: a token sees later ones of its example, too.

        Additive, because eager attention silently misreads a boolean mask. Padding sees itself, so that no row is
        empty. Raises ValueError for a bucketed grid, whose mask is `real`.
        """
        if self.unit is None or self.part is None:
            raise ValueError("a bucketed grid has no 4-D mask")
        same = self.unit[:, :, None] == self.unit[:, None, :]
        visible = (self.part[:, None, :] == 0) | (self.part[:, :, None] == self.part[:, None, :])
        length = self.ids.shape[1]
        if not bidirectional:
            visible = visible & torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        seen = (same & visible)[:, None]
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


@dataclass(frozen=True)
class Layout:
    """predict: [P] flat positions of the states that predict the labels; labels: [P] ids; offsets: [M + 1], where each
    answer's labels begin, on the CPU.

    last: [M] flat positions of each answer's last token.
    """

    grids: tuple[Grid, ...]
    predict: Tensor
    labels: Tensor
    offsets: Tensor
    last: Tensor


@dataclass(frozen=True)
class Cost:
    """Cost of a pass, in units of one token. attention: for each token that a token attends to; call: for each grid."""

    attention: float
    call: float


def states_at(states: Tensor, places: Tensor) -> Tensor:
    """states: [L, H] -> [n, H]. `index_select` instead of `states[places]`: answers share the state that predicts their
    first token, and on a CPU indexing would add its gradients in the order of threads, so runs would not repeat to the
    bit."""
    return states.index_select(0, places)


def packed(sequences: Sequences, capacity: int, cost: Cost | None = None) -> Layout:
    """Every prompt once, its answers behind it. Prompts with answers share rows of `capacity` tokens, best fit.

    A prompt whose answers exceed the capacity is split over copies of the prompt if the copies are cheap
    (`Sequences.dealt`); otherwise rows grow to hold it. Rows are never longer than needed. With a cost, rows may be
    shorter and lie in two grids, where that is cheaper.
    """
    sequences, placed = _cheapest(sequences, capacity, cost)
    prompt_lengths, answer_lengths, owner = sequences.prompts.lengths, sequences.answers.lengths, sequences.owner
    before = answer_lengths.cumsum(0) - answer_lengths
    first = sequences.counts.cumsum(0) - sequences.counts  # the first answer of each prompt
    # Where an answer begins in its unit; unused for a prompt without answers.
    behind = before - torch.cat([before, before.new_zeros(1)])[first][owner] + prompt_lengths[owner]
    base, done = torch.zeros(len(sequences), dtype=torch.int64), 0
    for group in placed:
        where = [row * group.width + start for row, start in zip(group.rows, group.starts, strict=True)]
        base[group.units] = done + torch.tensor(where, dtype=torch.int64)
        done += group.num_rows * group.width
    part = torch.arange(len(owner)) - first[owner] + 1
    zeros = torch.zeros(len(sequences), dtype=torch.int64)
    segments = _Segments(
        lengths=torch.cat([prompt_lengths, answer_lengths]),
        flat=torch.cat([base, base[owner] + behind]),
        position=torch.cat([zeros, prompt_lengths[owner]]),
        unit=torch.cat([torch.arange(len(sequences)), owner]),
        part=torch.cat([zeros, part]),
    )
    tokens = torch.cat([sequences.prompts.values, sequences.answers.values])
    grids = _grids(tokens, segments, [(group.num_rows, group.width) for group in placed], packed=True)
    return _finish(sequences, grids, segments.flat[len(sequences) :], (base + prompt_lengths - 1)[owner])


def bucketed(sequences: Sequences, *, padded: bool = True) -> Layout:
    """One answer a row behind a copy of its prompt, padded on the right; rows of similar length share a grid.

    padded: False lets only rows of equal length share a grid.
    """
    prompt_lengths, answer_lengths, owner = sequences.prompts.lengths, sequences.answers.lengths, sequences.owner
    row_lengths = prompt_lengths[owner] + answer_lengths
    shapes, full, base, done = [], [], torch.zeros(len(owner), dtype=torch.int64), 0
    for rows in _buckets(row_lengths.tolist(), padded):
        width = int(row_lengths[rows].max())
        full.append(bool((row_lengths[rows] == width).all()))
        base[rows] = done + torch.arange(len(rows)) * width
        done += len(rows) * width
        shapes.append((len(rows), width))
    prompts, start = sequences.prompts.select(owner.tolist()), base + prompt_lengths[owner]
    segments = _Segments(
        lengths=torch.cat([prompts.lengths, answer_lengths]),
        flat=torch.cat([base, start]),
        position=torch.cat([torch.zeros_like(base), prompts.lengths]),
        unit=torch.cat([torch.arange(len(owner))] * 2),
        part=torch.zeros(2 * len(owner), dtype=torch.int64),
    )
    tokens = torch.cat([prompts.values, sequences.answers.values])
    grids = _grids(tokens, segments, shapes, packed=False)
    grids = tuple(replace(grid, full=whole) for grid, whole in zip(grids, full, strict=True))
    return _finish(sequences, grids, start, start - 1)


@dataclass(frozen=True)
class _Segments:
    """Runs of tokens, [S] each, in the order of the tensor of tokens. flat: where a run begins; position: its first
    position id."""

    lengths: Tensor
    flat: Tensor
    position: Tensor
    unit: Tensor
    part: Tensor


def _grids(tokens: Tensor, segments: _Segments, shapes: Sequence[tuple[int, int]], *, packed: bool) -> tuple[Grid, ...]:
    """Grids of (rows, width), one behind the other in the flat positions of the segments."""
    run = torch.repeat_interleave(torch.arange(len(segments.lengths)), segments.lengths)
    within = torch.arange(len(run)) - (segments.lengths.cumsum(0) - segments.lengths)[run]
    targets = (segments.flat[run] + within).to(tokens.device)
    sizes = [rows * width for rows, width in shapes]

    def scatter(values: Tensor, fill: int) -> list[Tensor]:
        out = torch.full((sum(sizes),), fill, dtype=torch.int64, device=tokens.device)
        out[targets] = values.to(tokens.device)
        return [grid.view(shape) for grid, shape in zip(out.split(sizes), shapes, strict=True)]

    ids, positions = scatter(tokens, 0), scatter(segments.position[run] + within, 0)
    units, parts = scatter(segments.unit[run], -1), scatter(segments.part[run], 0)
    return tuple(
        Grid(row, position, unit >= 0, unit if packed else None, part if packed else None)
        for row, position, unit, part in zip(ids, positions, units, parts, strict=True)
    )


def _finish(sequences: Sequences, grids: tuple[Grid, ...], start: Tensor, before: Tensor) -> Layout:
    """start: [M] flat positions of each answer's first token; before: [M], of the token that precedes it."""
    answers, device = sequences.answers, sequences.answers.values.device
    lengths = answers.lengths
    row = torch.repeat_interleave(torch.arange(len(answers)), lengths)
    within = torch.arange(len(row)) - answers.offsets[:-1][row]
    predict = torch.where(within == 0, before[row], start[row] + within - 1)
    chosen = sequences.is_label
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sequences.num_labels().cumsum(0)])
    last = torch.where(lengths > 0, start + lengths - 1, before)
    return Layout(grids, predict.to(device)[chosen], answers.values[chosen], offsets, last.to(device))


class _Placed(NamedTuple):
    """A grid's units by number, with the row and the start of each."""

    units: list[int]
    rows: list[int]
    starts: list[int]
    width: int

    @property
    def num_rows(self) -> int:
        return max(self.rows, default=-1) + 1

    def price(self, cost: Cost | None) -> float:
        return self.num_rows * self.width * (1 + cost.attention * self.width) if cost else 0.0


def _cheapest(sequences: Sequences, capacity: int, cost: Cost | None) -> tuple[Sequences, list[_Placed]]:
    """The sequences as dealt, and where their units lie: in rows of the capacity or, with a cost, in the cheapest way
    tried.

    Tried are rows of the capacity, half and a quarter of it, with a quarter, half or three quarters of the units in a
    grid of their own.
    """
    tried = [round(capacity * share) for share in ((1, 0.5, 0.25) if cost else (1,))]
    by_price: dict[float, tuple[Sequences, list[_Placed]]] = {}
    for limit in tried:
        dealt = sequences.dealt(limit)
        if limit < capacity and dealt is sequences:
            continue  # the same sequences were tried at full capacity, with all sizes of rows
        lengths = dealt.prompts.lengths.index_add(0, dealt.owner, dealt.answers.lengths).tolist()
        order = sorted(range(len(lengths)), key=lambda unit: (-lengths[unit], unit))
        parts = 4 if cost and cost.call < math.inf else 1
        for cut in sorted({len(order) * part // 4 for part in range(parts)}):
            placed = []
            for group in (order[:cut], order[cut:]) if cut else (order,):
                sizes = [lengths[unit] for unit in group]
                ways = [_Placed(group, *_narrowest(sizes, size)) for size in tried]
                placed.append(min(ways, key=lambda way: way.price(cost)))
            price = sum(way.price(cost) for way in placed) + (cost.call if cost and cut else 0.0)
            by_price.setdefault(price, (dealt, placed))
    return by_price[min(by_price)]


def _narrowest(lengths: Sequence[int], capacity: int) -> tuple[list[int], list[int], int]:
    """`_best_fit` into as few rows as `capacity` allows, the rows as short as their number allows."""
    fit = _best_fit(lengths, capacity)
    num_rows = max(fit[0], default=-1) + 1
    if num_rows < 2:
        return fit
    shortest = max(-(-sum(lengths) // num_rows), *lengths)
    tries = range(shortest, fit[2], max(1, shortest // 64))
    first = bisect_left(tries, True, key=lambda width: max(_best_fit(lengths, width)[0]) < num_rows)
    return _best_fit(lengths, tries[first]) if first < len(tries) else fit


def _best_fit(lengths: Sequence[int], capacity: int) -> tuple[list[int], list[int], int]:
    """(row, start, width) of each length: longest first, each into the fullest row that still has room (BFD)."""
    width = min(max([capacity, *lengths]), sum(lengths)) if lengths else 0
    rows, starts = [0] * len(lengths), [0] * len(lengths)
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    num_rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fullest = bisect_left(room, (lengths[index], -1))
        if fullest < len(room):
            left, row = room.pop(fullest)
        else:
            left, row = width, num_rows
            num_rows += 1
        rows[index], starts[index] = row, width - left
        insort(room, (left - lengths[index], row))
    # If no row is full, rows are only as long as the fullest.
    return rows, starts, max((start + length for start, length in zip(starts, lengths, strict=True)), default=0)


def _buckets(lengths: Sequence[int], padded: bool) -> list[list[int]]:
    """Groups of indices, longest first, of at most 16,384 tokens each; padding stays under a tenth, or is none."""
    groups: list[list[int]] = []
    num_tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        num_tokens += lengths[index]
        longest = lengths[groups[-1][0]] if groups else 0
        area = longest * (len(groups[-1]) + 1) if groups else 0
        alike = padded or lengths[index] == longest
        if groups and alike and num_tokens >= (1 - _MAX_PADDING) * area and area <= _BUDGET:
            groups[-1].append(index)
        else:
            groups.append([index])
            num_tokens = lengths[index]
    return groups
