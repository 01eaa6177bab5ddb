"""Answers token by token with a cache of keys and values; rows that have ended leave the batch. A family without such a
cache (GPT-1) reads each row again for every token.

    generated = generate(module, prompts, Sampling(max_tokens=64), seeds=[0, 1], end_id=2)

Prompts are padded on the left, and positions count from the first real token. A prompt that occurs several times is
read once.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmalign.errors import NonFiniteError
from mmalign.sampling import Generated, Sampling, draw, uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LEAVE = 8  # rows leave when an eighth have ended: what stays is copied then
# Of a batch, at most: a small model wants many rows, and keys and values of long ones take much memory.
_ROWS, _PLACES = 256, 1 << 15


@torch.no_grad()
def generate(
    module: "PreTrainedModel",
    prompts: Sequence[Tensor],
    sampling: Sampling,
    seeds: Sequence[int],
    end_id: int,
    on_token: Callable[[int, int], None] | None = None,
) -> Generated:
    """prompts: N rows of ids, none empty; seeds: one a row. `on_token(row, id)` sees every token as it is drawn."""
    if not prompts:
        return Generated([], [], [])
    different, owner = _distinct(prompts)
    reading = _Reading(module, different, sampling.max_tokens)
    logits = reading.first(owner)
    tokens = torch.zeros(sampling.max_tokens, len(prompts), dtype=torch.int64, device=logits.device)
    logps = torch.zeros(tokens.shape, device=logits.device)
    lengths, ended = [sampling.max_tokens] * len(prompts), [False] * len(prompts)
    rows = list(range(len(prompts)))  # which prompt each line of the batch is; some have ended
    places = torch.arange(len(prompts), device=logits.device)
    for step in range(sampling.max_tokens):
        drawn, logp = draw(logits, sampling, uniforms([seeds[row] for row in rows], step))
        tokens[step, places], logps[step, places] = drawn, logp
        for row, token in zip(rows, drawn.tolist(), strict=True):  # syncs with a GPU
            if ended[row]:
                continue
            if token == end_id:
                ended[row], lengths[row] = True, step + 1
            if on_token is not None:
                on_token(row, token)
        alive = [line for line, row in enumerate(rows) if not ended[row]]
        if not alive or step + 1 == sampling.max_tokens:
            break
        if _LEAVE * (len(rows) - len(alive)) >= len(rows):
            keep = torch.tensor(alive, device=logits.device)
            reading.select(keep)
            rows, places, drawn = [rows[line] for line in alive], places[keep], drawn[keep]
        logits = reading.next(drawn)
    ids, found = tokens.T.cpu(), logps.T.cpu()
    if bool(found.isnan().any()):
        raise NonFiniteError(
            "the model gives NaN for what comes next", hint="Take an earlier checkpoint, or float32 weights."
        )
    return Generated(
        [row[:length].clone() for row, length in zip(ids, lengths, strict=True)],
        [row[:length].clone() for row, length in zip(found, lengths, strict=True)],
        ended,
    )


def batches(prompts: Sequence[Tensor], max_tokens: int, *, padded: bool = True) -> Iterator[list[int]]:
    """Rows to answer together: those of like length, and equal prompts side by side. padded: lengths may differ.

    In float64 BLOOM's softmax, which is in float32, makes NaN of a padding place that may look at nothing.
    """
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row].tolist()))
    while order:
        number, longest = 1, len(prompts[order[0]]) if not padded else max(map(len, prompts))
        while number < min(_ROWS, len(order)) and len(prompts[order[number]]) <= longest:
            if (number + 1) * (len(prompts[order[number]]) + max_tokens) > _PLACES:
                break
            number += 1
        yield order[:number]
        order = order[number:]


def _distinct(prompts: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The different ones, and which of them each is."""
    places: dict[tuple[int, ...], int] = {}
    different, owner = [], []
    for prompt in prompts:
        place = places.setdefault(tuple(prompt.tolist()), len(different))
        if place == len(different):
            different.append(prompt)
        owner.append(place)
    return different, owner


class _Reading:
    """A batch as the model has read it. mask: [n, width + room], ones behind the prompts. positions: like
    the tokens that the model reads next."""

    def __init__(self, module: "PreTrainedModel", prompts: Sequence[Tensor], room: int) -> None:
        self._module = module
        takes = inspect.signature(module.forward).parameters
        self._takes_positions, self._takes_cache = "position_ids" in takes, "past_key_values" in takes
        # Of a prompt, the last logits alone: all of them are its length times the vocabulary.
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._cache: Any = _new_cache() if self._takes_cache else None
        device, lengths = next(module.parameters()).device, [len(prompt) for prompt in prompts]
        self._width = max(lengths)
        self._tokens = torch.zeros(len(prompts), self._width, dtype=torch.int64)
        mask = torch.ones(len(prompts), self._width + room, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            self._tokens[row, self._width - len(prompt) :] = prompt
            mask[row, : self._width - len(prompt)] = 0
        self._tokens = self._tokens.to(device)
        self._positions = (mask[:, : self._width].cumsum(1) - 1).clamp(min=0).to(device)
        self._mask = mask.to(device)

    def first(self, owner: Sequence[int]) -> Tensor:
        """[N, V] behind the prompts; from here on there are N rows, row i behind prompt `owner[i]`."""
        logits = self._logits()
        if list(owner) == list(range(len(logits))):
            return logits
        rows = torch.tensor(owner, device=logits.device)
        self.select(rows)
        return logits[rows]

    def next(self, ids: Tensor) -> Tensor:
        """[n, V] behind one token more in each row. ids: [n]."""
        ids, positions = ids[:, None], self._positions[:, -1:] + 1
        self._width += 1
        if not self._takes_cache:
            ids, positions = torch.cat([self._tokens, ids], 1), torch.cat([self._positions, positions], 1)
        self._tokens, self._positions = ids, positions
        return self._logits()

    def select(self, rows: Tensor) -> None:
        self._tokens, self._positions = self._tokens[rows], self._positions[rows]
        self._mask = self._mask[rows]
        if self._cache is not None:
            self._cache.batch_select_indices(rows)

    def _logits(self) -> Tensor:
        extra: dict[str, Any] = {"position_ids": self._positions} if self._takes_positions else {}
        if self._takes_cache:
            extra |= {"past_key_values": self._cache, "use_cache": True}
        mask = self._mask[:, : self._width]
        out: Any = self._module(input_ids=self._tokens, attention_mask=mask, **extra, **self._last_only)
        if self._takes_cache:
            self._cache = out.past_key_values
        return out.logits[:, -1]


def _new_cache() -> Any:
    from transformers import Cache

    from mmalign_lm.roomy_cache import RoomyLayer

    return Cache(layer_class_to_replicate=RoomyLayer)
