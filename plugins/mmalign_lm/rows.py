"""How examples of a family may share the rows of one call, tried when the model is loaded.

    rows = try_rows(trunk, config, vocabulary, context_length=2048, packing=True, tolerance=1e-4)
    layout = rows.layout(sequences, row_length=512)      # packed, padded, or rows of equal length, as the family allows

A token must get what transformers' plain forward of its sequence alone gives it. Three ways are tried, the fastest
first: examples packed in a row behind a 4-D mask; one row for each, padded on the right; rows of equal length without
mask. A family for which even the last is wrong is refused, and one whose tokens see later ones, unless its trunk is to
be bidirectional: then one whose tokens do not.

Attention may change with length: local windows, chunks, a selection of the best keys. The length at which it changes is
a number of the config, under many names, so every number that could be a length counts. The trial goes past the largest
such number that its budget allows. Sequences longer than the next one are read in the third way, one length at a time.

Cost at loading: 130 tokens for a family without windows, six times the window for one with. `_BUDGET` bounds it to
about two billion operations times a thousand, 2 s on eight cores.
"""

import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.contract.batch import Ragged
from mmalign.errors import CheckpointError
from mmalign.language.layout import Grid, packed
from mmalign.language.sequences import Sequences
from mmalign_lm.folder import text_config
from mmalign_lm.texts import TextProcessor
from mmalign_lm.trunk import Rows, Trunk, some_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What a family's code raises for a call that it does not support.
FAILURES = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError, AssertionError)
_TOLERANCE = 1e-4  # relative; float32 under another kernel
_BUDGET = 1e12  # of a trial: tokens times parameters
_ROUNDS = 8
_FEWEST = 32  # tokens of the shortest packed row that pays off
_SHORTEST = 4
# Config fields that are no length at which attention changes: widths, counts, ids, the model's own limit.
_NO_LENGTH = frozenset(
    "d_model n_embd n_inner n_head n_layer n_positions n_ctx max_position_embeddings max_seq_len seq_length ffn_dim "
    "head_dim kv_channels rotary_dim rope_theta state_size d_inner d_state id2label label2id transformers_version "
    "max_window_layers n_routed_experts original_max_position_embeddings query_pre_attn_scalar".split()
)
# Those that transformers' own 2-D masks (masking_utils) respect, so that padding is right with them.
_IN_MASKS = frozenset({"sliding_window", "attention_chunk_size"})
_NO_LENGTH_ENDS = ("_token_id", "hidden_size", "intermediate_size", "vocab_size", "_head_dim", "_lora_rank", "_theta")


@torch.no_grad()
def try_rows(
    trunk: Trunk,
    config: Mapping[str, Any],
    vocabulary: int,
    *,
    context_length: int,
    packing: bool,
    tolerance: float,
    sharpen: bool = False,
) -> Rows:
    """See the module; raises CheckpointError. config: as a dict. tolerance: relative.
    sharpen: scale up random weights for the trial, because their attention is a mean and hides errors; restored
    afterwards."""
    limit = dynamic_limit(config)
    if 0 < limit < context_length:
        raise CheckpointError(
            f"rotary positions of the type dynamic are defined up to {limit:,} tokens, and the context has "
            f"{context_length:,}: past that, what a row gets depends on the longest row seen before",
            hint=f"Try: --set backbone.context_length={limit}. Fixed factors (yarn, llama3) have no such limit.",
        )
    switch = rotary_switch(config)
    lengths, unmasked = candidate_lengths(config), candidate_lengths(config, besides=_IN_MASKS)
    reach = min(context_length, switch or context_length)
    parameters = sum(parameter.numel() for parameter in trunk.module.parameters())
    past = [_SHORTEST, *(n for n in lengths if 3 * n + 30 <= reach and (9 * n + 150) * parameters <= _BUDGET)]
    window, packs_up_to = max(past), 0.0

    def next_above(tried: int, known: list[int]) -> float:
        return min([n for n in known if n > tried] + ([switch] if switch else []), default=math.inf)

    with maybe_sharpened(trunk.module, sharpen):
        trials = [_Trial(trunk, ids, tolerance) for ids in _trial_ids(vocabulary, window, parameters)]
        for trial in trials:
            trial.check_plain()
        pads = all(trial.agrees(trial.padded) for trial in trials)
        for tried in sorted(set(past), reverse=True) if packing else ():
            if tried != window:
                trials = [_Trial(trunk, ids, tolerance) for ids in _trial_ids(vocabulary, tried, parameters)]
            if all(trial.agrees(trial.packed) for trial in trials):
                packs_up_to = next_above(tried, lengths)
                break
    packs = packs_up_to >= _FEWEST
    return Rows(packs, pads, packs_up_to, next_above(window, unmasked), window, switch, len(trials))


def _trial_ids(vocabulary: int, window: int, parameters: int) -> list[list[Tensor]]:
    """A prompt, two answers and a text, once or, where that is cheap, several times. In a packed row the second answer
    lies beyond the window; each answer with the prompt is longer than the window."""
    several = window > _SHORTEST and _ROUNDS * (9 * window + 150) * parameters <= _BUDGET / 10
    shared = window // 2 + 4
    lengths = (shared, window + 12 - shared, window + 9 - shared, window + 6)
    return [
        [some_ids(vocabulary, length, 4 * number + index) for index, length in enumerate(lengths)]
        for number in range(_ROUNDS if several else 1)
    ]


def try_unpacked(trunk: Trunk, config: "PreTrainedConfig", vocabulary: int, processor: TextProcessor) -> Rows:
    """`try_rows` for a trunk that reads one example a row, in float32; raises CheckpointError."""
    return try_rows(
        trunk,
        text_config(config).to_dict(),
        vocabulary,
        context_length=processor.context_length,
        packing=False,
        tolerance=_TOLERANCE,
    )


class _Trial:
    """A prompt with two answers, and a text: their outputs together, compared with each alone."""

    def __init__(self, trunk: Trunk, ids: list[Tensor], tolerance: float) -> None:
        self._trunk, self._tolerance, self._name = trunk, tolerance, type(trunk.module).__name__
        device = next(trunk.module.parameters()).device
        prompt, *answers, other = (row.to(device) for row in ids)
        self._rows = [torch.cat([prompt, answer]) for answer in answers] + [other]
        if trunk.bidirectional:  # no row may share a prompt, which would see the answers
            self._sequences = Sequences.documents(Ragged.from_list(self._rows))
        else:
            self._sequences = Sequences.from_lists([prompt, other[:2]], [answers, [other[2:]]])

    @cached_property
    def _alone(self) -> list[Tensor]:
        return [self._trunk.of_one(row) for row in self._rows]

    def check_plain(self) -> None:
        """Raise CheckpointError unless attention is as the trunk says and a row is computed alike alone and beside
        another."""
        try:
            alone, length = self._alone, len(self._rows[1])
            prefix = self._trunk.of_one(self._rows[0][:length])
            ids = torch.stack([self._rows[0][:length], self._rows[1]])
            beside = self._trunk.of_grid(Grid(ids, torch.zeros_like(ids), ids >= 0, full=True))
        except FAILURES as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise CheckpointError(
                f"{self._name} gives no hidden states for a row of tokens alone ({what})",
                hint="It needs more than text, or is not a language model for this version of transformers.",
            ) from error
        is_causal = self._close(prefix, alone[0][:length])
        if is_causal and self._trunk.bidirectional:
            raise CheckpointError(
                f"{self._name} cannot attend in both directions: a later token does not change the output for an "
                "earlier one",
                hint="Leave out backbone.embedder.bidirectional: it embeds texts with causal attention as well.",
            )
        if not is_causal and not self._trunk.bidirectional:
            raise CheckpointError(
                f"{self._name} is not causal: its output for a token depends on later tokens",
                hint="A model of the BERT kind needs is_decoder=true in its config.json, and training with it. "
                "A model that selects among keys breaks ties by the whole row.",
            )
        if not (self._close(beside[0], prefix) and self._close(beside[1], alone[1])):
            raise CheckpointError(
                f"{self._name} computes other hidden states for a row when another row of the same length is beside it",
                hint="No batch of it would be right, so it can be neither trained nor used here.",
            )

    def agrees(self, together: Any) -> bool:
        """Whether the given way of reading gives each row what it gets alone."""
        try:
            return bool(together())
        except FAILURES:
            return False  # the family refuses such a call (BLOOM: ValueError)

    def packed(self) -> bool:
        width = sum(map(len, self._sequences.answers.rows())) + len(self._sequences.prompts.values)
        layout = packed(self._sequences, width)
        states = self._trunk(layout)
        lengths = self._sequences.answers.lengths.tolist()
        before = torch.cat([row[-n - 1 : -1] for row, n in zip(self._alone, lengths, strict=True)])
        last = torch.stack([row[-1] for row in self._alone])
        return self._close(states[layout.predict], before) and self._close(states[layout.last], last)

    def padded(self) -> bool:
        width, rows = max(map(len, self._rows)), len(self._rows)
        ids = self._rows[0].new_zeros(rows, width)
        positions, real = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for number, row in enumerate(self._rows):
            ids[number, : len(row)], real[number, : len(row)] = row, True
            positions[number, : len(row)] = torch.arange(len(row))
        states = self._trunk.of_grid(Grid(ids, positions, real))
        return all(
            self._close(states[n, : len(row)], alone)
            for n, (row, alone) in enumerate(zip(self._rows, self._alone, strict=True))
        )

    def _close(self, one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other, rtol=self._tolerance, atol=self._tolerance)


def candidate_lengths(config: Mapping[str, Any], besides: AbstractSet[str] = frozenset()) -> list[int]:
    """Numbers of a config, at any depth, that could be a length at which attention changes; sorted. besides: fields to
    leave out."""
    return sorted(set(_numbers(config, _NO_LENGTH | besides)))


def _numbers(value: Any, left_out: AbstractSet[str]) -> Iterator[int]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not (str(name) in left_out or str(name).startswith("num_") or str(name).endswith(_NO_LENGTH_ENDS)):
                yield from _numbers(inner, left_out)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, left_out)
    elif isinstance(value, int) and not isinstance(value, bool) and value > 1:
        yield value


def rotary_switch(config: Mapping[str, Any]) -> int:
    """The length past which LongRoPE (Ding 2024, arXiv 2402.13753) uses its long factors for all positions of a call;
    0: none."""
    return min(_original_lengths(config, "longrope"), default=0)


def dynamic_limit(config: Mapping[str, Any]) -> int:
    """The length up to which dynamic NTK leaves rotary positions unchanged; 0: the config has none.

    Past it, transformers' factors depend on the longest row that the model has seen, so no output is well defined.
    """
    return min(_original_lengths(config, "dynamic"), default=0)


def _original_lengths(config: Mapping[str, Any], kind: str) -> Iterator[int]:
    limit = config.get("max_position_embeddings")
    for name, value in config.items():
        if not isinstance(value, Mapping):
            continue
        if value.get("rope_type", value.get("type")) == kind:
            stated = [value.get("original_max_position_embeddings"), config.get("original_max_position_embeddings")]
            # transformers' dynamic NTK counts from the model's own limit and ignores other fields
            known = [limit] if kind == "dynamic" else [*stated, limit]
            yield from [length for length in known if isinstance(length, int)][:1]
        else:
            inner = {"max_position_embeddings": limit, **value} if name.startswith("rope") else value
            yield from _original_lengths(inner, kind)


@contextmanager
def maybe_sharpened(module: nn.Module, sharpen: bool) -> Iterator[None]:
    """Inside the context, matrices are scaled up by powers of two so that their rows have length 1 to 2; restored
    exactly afterwards."""
    factors: list[tuple[Tensor, float]] = []
    for parameter in module.parameters() if sharpen else ():
        if parameter.ndim > 1 and parameter.is_floating_point():
            length = float(parameter.float().std()) * math.sqrt(parameter.shape[-1])
            if 0 < length < 1:
                factors.append((parameter, 2.0 ** math.ceil(-math.log2(length))))
    for parameter, factor in factors:
        parameter.mul_(factor)
    try:
        yield
    finally:
        for parameter, factor in factors:
            parameter.div_(factor)
