"""Generates answers token by token with a cache of keys and values; rows that have ended leave the batch. A family
without such a cache (GPT-1) reads each row again for every token.

    generated = generate(module, prompts, Sampling(max_tokens=64), seeds=[0, 1], end_ids={2})

Where the family allows it (`Way`), prompts are padded on the left, and positions count from the first real token. A
prompt that occurs several times is read once.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mmalign.errors import NonFiniteError
from mmalign.language.sampling import Generated, Sampling, draw, uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LEAVE = 8  # ended rows leave once they are an eighth of the batch: leaving copies the rows that stay
# Largest batch: many rows for a small model, but keys and values of long rows take much memory.
_ROWS, _PLACES = 256, 1 << 15
_CACHES = ("cache", "past_key_values")  # the forward's argument: since transformers 5.24, and before it


@dataclass(frozen=True)
class Way:
    """padded: prompts of different lengths may be answered in one call. cache: keys and values are kept with spare room
    behind them, in transformers' own cache for the family, or not at all. switch: when rows, then of equal length, grow
    past this many tokens, all is read again (LongRoPE changes all their positions there); 0: never."""

    padded: bool = True
    cache: Literal["roomy", "own", "none"] = "roomy"
    switch: int = 0


@torch.no_grad()
def generate(
    module: "PreTrainedModel",
    prompts: Sequence[Tensor],
    sampling: Sampling,
    seeds: Sequence[int],
    end_ids: Collection[int],
    on_token: Callable[[int, int], None] | None = None,
    way: Way = Way(),
) -> Generated:
    """prompts: N rows of ids, none empty; seeds: one a row; end_ids: each of them ends an answer. `on_token(row, id)`
    is called for every token as it is drawn."""
    if not prompts:
        return Generated([], [], [])
    different, owner = _distinct(prompts)
    reading = Reading(module, different, sampling.max_tokens, way)
    logits = reading.first(owner)
    tokens = torch.zeros(sampling.max_tokens, len(prompts), dtype=torch.int64, device=logits.device)
    logps = torch.zeros(tokens.shape, device=logits.device)
    lengths, ended = [sampling.max_tokens] * len(prompts), [False] * len(prompts)
    rows = list(range(len(prompts)))  # the prompt of each line of the batch; some have ended
    columns = torch.arange(len(prompts), device=logits.device)
    for step in range(sampling.max_tokens):
        drawn, logp = draw(logits, sampling, uniforms([seeds[row] for row in rows], step))
        tokens[step, columns], logps[step, columns] = drawn, logp
        for row, token in zip(rows, drawn.tolist(), strict=True):  # syncs with a GPU
            if ended[row]:
                continue
            if token in end_ids:
                ended[row], lengths[row] = True, step + 1
            if on_token is not None:
                on_token(row, token)
        alive = [line for line, row in enumerate(rows) if not ended[row]]
        if not alive or step + 1 == sampling.max_tokens:
            break
        if _LEAVE * (len(rows) - len(alive)) >= len(rows):
            keep = torch.tensor(alive, device=logits.device)
            reading.select(keep)
            rows, columns, drawn = [rows[line] for line in alive], columns[keep], drawn[keep]
        logits = reading.next(drawn)
    ids, logps = tokens.T.cpu(), logps.T.cpu()
    if bool(logps.isnan().any()):
        raise NonFiniteError(
            "the model gives NaN for the next token", hint="Take an earlier checkpoint, or float32 weights."
        )
    return Generated(
        [row[:length].clone() for row, length in zip(ids, lengths, strict=True)],
        [row[:length].clone() for row, length in zip(logps, lengths, strict=True)],
        ended,
    )


def batches(prompts: Sequence[Tensor], max_tokens: int, *, padded: bool = True) -> Iterator[list[int]]:
    """Rows to answer together: of similar length, equal prompts side by side. padded: their lengths may differ."""
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
    """The distinct prompts, and for each prompt the index of its distinct one."""
    indices: dict[tuple[int, ...], int] = {}
    different, owner = [], []
    for prompt in prompts:
        index = indices.setdefault(tuple(prompt.tolist()), len(different))
        if index == len(different):
            different.append(prompt)
        owner.append(index)
    return different, owner


class Reading:
    """A batch that the model has read so far. `_tokens`, `_positions`, `_mask`: [n, width], padded on the left.
    `_unread`: where the tokens begin that the model reads next."""

    def __init__(self, module: "PreTrainedModel", prompts: Sequence[Tensor], room: int, way: Way) -> None:
        self._module, self._way = module, way
        self._takes = inspect.signature(module.forward).parameters
        self._cache_name = next((name for name in _CACHES if name in self._takes), "")
        if not self._cache_name and way.cache != "none":
            raise ValueError(f"{type(module).__name__} takes no cache")
        device, lengths = next(module.parameters()).device, [len(prompt) for prompt in prompts]
        width = max(lengths)
        tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.ones(len(prompts), width + room, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = prompt
            mask[row, : width - len(prompt)] = 0
        self._plain = len(set(lengths)) == 1 and way.cache == "none"
        self._positions = (mask[:, :width].cumsum(1) - 1).clamp(min=0).to(device)
        self._tokens, self._mask = tokens.to(device), mask.to(device)
        self._restart()

    def first(self, owner: Sequence[int]) -> Tensor:
        """[N, V] logits behind the prompts. From here on there are N rows, row i behind prompt `owner[i]`."""
        logits = self._logits()
        if list(owner) == list(range(len(logits))):
            return logits
        rows = torch.tensor(owner, device=logits.device)
        self.select(rows)
        return logits[rows]

    def next(self, ids: Tensor) -> Tensor:
        """[n, V] logits behind one more token in each row. ids: [n]."""
        width = self._tokens.shape[1]
        self._tokens = torch.cat([self._tokens, ids[:, None]], 1)
        self._positions = torch.cat([self._positions, self._positions[:, -1:] + 1], 1)
        if width == self._way.switch:
            self._restart()
        return self._logits()

    def select(self, rows: Tensor) -> None:
        self._tokens, self._positions = self._tokens[rows], self._positions[rows]
        self._mask = self._mask[rows]
        if self._cache is not None:
            self._cache.batch_select_indices(rows)

    def _restart(self) -> None:
        self._unread = 0
        self._cache: Any = _new_cache(self._module, self._way.cache) if self._way.cache != "none" else None

    def _logits(self) -> Tensor:
        unread, width = slice(self._unread, None), self._tokens.shape[1]
        inputs: dict[str, Any] = {"input_ids": self._tokens[:, unread]}
        if not self._plain:
            inputs["attention_mask"] = self._mask[:, :width]
            if "position_ids" in self._takes:
                inputs["position_ids"] = self._positions[:, unread]
        if self._cache is not None:
            inputs[self._cache_name] = self._cache
            self._unread = width
        if "use_cache" in self._takes:
            inputs["use_cache"] = self._cache is not None
        if "logits_to_keep" in self._takes:  # the logits of a whole prompt would be its length times the vocabulary
            inputs["logits_to_keep"] = 1
        return self._module(**inputs).logits[:, -1]


def _new_cache(module: "PreTrainedModel", kind: str) -> Any:
    from transformers import Cache, DynamicCache

    from mmalign_lm.roomy_cache import RoomyLayer

    if kind == "own":
        return DynamicCache(config=module.config.get_text_config(decoder=True))
    return Cache(layer_class_to_replicate=RoomyLayer)
