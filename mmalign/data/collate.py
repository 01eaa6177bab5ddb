"""Examples to batches, in data workers: pictures and texts through a backbone's processor, the rest as it is.

    encoder = Encoder(backbone.processor, "image-text", seed=0)
    batch = collate([encoder.encode(example, epoch=0, index=17, train=True), ...])

A kind's columns follow from the types of its dataclass fields: ImageRef -> pixels [N, 3, H, W]; str -> token ids,
ragged, except `key`, `group` and `solution`, which stay strings; a number or truth value -> a tensor [N]; anything else
-> a tuple of N objects. A kind with prompts and answers (`completion`, `preference`, `ranking`) gives them all as one
column `sequences`; those of a `prompt` have no answers, and it stays beside them as it is, as do its `columns`. Texts
also give `num_lost` [N], the tokens cut off to fit, and conversations `num_left_out` [N], the turns whose thinking the
chat template leaves out. An `image-text` batch keeps its texts as `caption`, and a `group` that is empty becomes the
key.
"""

import random
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

import torch

from mmalign.contract.backbone import Processor
from mmalign.contract.batch import Batch, Column, Ragged
from mmalign.contract.examples import EXAMPLE_KINDS, ImageRef, Turns
from mmalign.data.images import open_image
from mmalign.errors import BadSample, DataError, UsageError
from mmalign.hashing import stable_hash
from mmalign.language.protocols import AnswersProcessor, TokenizedAnswers
from mmalign.language.sequences import Sequences

_NAMES = frozenset({"key", "group", "solution"})


class Encoder:
    """Encodes examples of one kind for one backbone. Picklable; holds no state that a call changes.

    What augmentation draws depends on (seed, epoch, index) alone, never on the worker or the batch. answer_tokens: the
    room that a prompt without answers leaves in the context; one that is too long loses its beginning.
    """

    def __init__(self, processor: Processor, kind: str, seed: int, answer_tokens: int = 0) -> None:
        if kind not in EXAMPLE_KINDS:
            raise UsageError(f"unknown example kind {kind!r}", hint=f"Known: {', '.join(sorted(EXAMPLE_KINDS))}")
        self.processor = processor
        self.kind = kind
        self.seed = seed
        self.answer_tokens = answer_tokens
        self._columns = columns_of(EXAMPLE_KINDS[kind])
        self._has_answers = "turns" in self._columns.values()
        if self._has_answers:
            self._columns = {name: column for name, column in self._columns.items() if column != "turns"}

    def encode(self, example: Any, epoch: int, index: int, train: bool) -> dict[str, Any]:
        """One row: tensors, strings and numbers by column name. Raises BadSample."""
        rng = random.Random(stable_hash("augment", self.seed, epoch, index)) if train else None
        row: dict[str, Any] = {}
        lost = None
        if self._has_answers:
            tokens = cast(AnswersProcessor, self.processor).answers(example.prompt, example.answers())
            if self.answer_tokens:
                if not len(tokens.prompt):
                    raise BadSample("an empty prompt, and the model has no start token: nothing can follow it")
                tokens = _shortened(tokens, self.processor.context_length - self.answer_tokens)
            row["sequences"], lost = tokens, tokens.num_lost
            row["num_left_out"] = torch.tensor(tokens.num_left_out)
        for name, column in self._columns.items():
            value = getattr(example, name)  # the fields of a dataclass, by their declared names
            if column == "image":
                row[name] = self.processor.image(open_image(value), rng)
            elif column == "text":
                tokens = self.processor.text(value)
                row[name] = _Tokens(tokens.ids)
                lost = (lost or 0) + tokens.num_lost
            else:
                row[name] = torch.as_tensor(value) if column == "number" else value
        if lost is not None:
            row["num_lost"] = torch.tensor(lost)
        if self.kind == "prompt":
            row["prompt"] = example.prompt
        if self.kind == "image-text":
            row["caption"] = example.text
            row["group"] = example.group or example.key
        return row


def _shortened(tokens: TokenizedAnswers, room: int) -> TokenizedAnswers:
    lost = max(0, len(tokens.prompt) - room)
    return tokens._replace(prompt=tokens.prompt[lost:], num_lost=tokens.num_lost + lost)


def columns_of(kind: Any) -> dict[str, str]:
    """Field -> "image", "text", "turns", "number" or "object", from the annotations of an example's dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: _column(field.name, hints[field.name]) for field in fields(kind)}


def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Join encoded rows. Raises DataError where two images of a batch differ in shape."""
    return Batch({name: _join(name, [row[name] for row in rows]) for name in rows[0]} if rows else {})


class _Tokens(typing.NamedTuple):
    """Marks a row of a ragged column."""

    ids: torch.Tensor


def _column(name: str, hint: Any) -> str:
    if name in _NAMES:
        return "object"
    if hint in (Turns, tuple[Turns, ...]):
        return "turns"
    return {ImageRef: "image", str: "text", int: "number", float: "number", bool: "number"}.get(hint, "object")


def _join(name: str, values: list[Any]) -> Column:
    if isinstance(values[0], _Tokens):
        return Ragged.from_list([value.ids for value in values])
    if isinstance(values[0], TokenizedAnswers):
        prompts, answers, learn, *_ = zip(*values, strict=True)
        return Sequences.from_lists(prompts, answers, learn)
    if not isinstance(values[0], torch.Tensor):
        return tuple(values)
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise DataError(f"column {name!r} holds rows of different shapes: {sorted(shapes)}")
    return torch.stack(values)
