"""Turns examples into batches, in data workers: a backbone's processor encodes pictures and texts; the rest is kept as
is.

    encoder = Encoder(backbone.processor, ImageText, seed=0)
    batch = collate([encoder.encode(example, epoch=0, index=17, train=True), ...])

A kind's columns follow from the types of its dataclass fields: ImageRef -> pixels [N, 3, H, W]; str -> token ids,
ragged (none for an empty text in a field that is "" by default); a number or truth value -> a tensor [N]; anything
else, and what is marked with `Keep`, -> a tuple of N objects.
A kind with prompts and answers, which are fields of `Turns`, gives them all as one column `sequences`: its field
`prompt`, and behind it what its method `answers()` returns. Texts also give `num_lost` [N], the tokens cut off to fit,
and conversations `num_left_out` [N], the turns whose thinking the chat template leaves out.
"""

import random
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, cast, get_args, get_origin

import torch

from mmalign.contract.backbone import EncodesQueries, Processor, TokenizedText
from mmalign.contract.batch import Batch, Column, Ragged
from mmalign.contract.examples import AsQuery, Content, ImageRef, Keep, Turns
from mmalign.data.images import open_image
from mmalign.errors import BadSample, DataError, PluginError
from mmalign.hashing import stable_hash
from mmalign.language.protocols import ReadsAnswers, TokenizedAnswers
from mmalign.language.sequences import Sequences


class Encoder:
    """Encodes examples of one kind for one backbone. Picklable; calls change no state.

    kind: its dataclass. columns: as `columns_of` gives them. Raises PluginError for a class that is no kind of example.
    What augmentation draws depends on (seed, epoch, index) alone, never on the worker or the batch. answer_tokens: the
    room that a prompt without answers leaves in the context; one that is too long loses its beginning.
    """

    def __init__(self, processor: Processor, kind: type, seed: int, answer_tokens: int = 0) -> None:
        self.processor = processor
        self.columns = columns_of(kind)
        self.seed = seed
        self.answer_tokens = answer_tokens

    def encode(self, example: Any, epoch: int, index: int, train: bool) -> dict[str, Any]:
        """One row: tensors, strings and numbers by column name. Raises BadSample."""
        rng = random.Random(stable_hash("augment", self.seed, epoch, index)) if train else None
        row: dict[str, Any] = {}
        lost = None
        for name, (field, read_as) in self.columns.items():
            value = getattr(example, field)  # the fields of a dataclass, by their declared names
            if read_as == "image":
                row[name] = self.processor.image(open_image(value), rng)
            elif read_as == "turns":
                row[name] = tokens = self._answers(example, rng)
                row["num_left_out"] = torch.tensor(tokens.num_left_out)
                lost = (lost or 0) + tokens.num_lost
            elif read_as in ("text", "query", "optional"):
                tokens = self._text(value, read_as)
                row[name] = _Tokens(tokens.ids)
                lost = (lost or 0) + tokens.num_lost
            else:
                row[name] = torch.as_tensor(value) if read_as == "number" else value
        if lost is not None:
            row["num_lost"] = torch.tensor(lost)
        return row

    def _text(self, text: str, read_as: str) -> TokenizedText:
        if read_as == "optional" and not text:
            return TokenizedText(torch.zeros(0, dtype=torch.int64), 0)
        if read_as == "query" and isinstance(self.processor, EncodesQueries):
            return self.processor.query(text)
        return self.processor.text(text)

    def _answers(self, example: Any, rng: random.Random | None) -> TokenizedAnswers:
        answers = example.answers()
        tokens = cast(ReadsAnswers, self.processor).answers(example.prompt, answers)
        tokens = with_pixels(
            tokens, example.prompt, answers, lambda picture: self.processor.image(open_image(picture), rng)
        )
        if not self.answer_tokens:
            return tokens
        if not len(tokens.prompt):
            raise BadSample("an empty prompt, and the model has no start token: nothing can follow it")
        return _shortened(tokens, self.processor.context_length - self.answer_tokens)


def with_pixels(
    tokens: TokenizedAnswers, prompt: Content, answers: Sequence[Content], encode: Callable[[ImageRef], torch.Tensor]
) -> TokenizedAnswers:
    """The tokens of a prompt and its answers, with those that are pictures encoded, the prompt first."""
    if isinstance(prompt, ImageRef):
        tokens = tokens._replace(picture=encode(prompt))
    pictures = tuple(encode(answer) for answer in answers if isinstance(answer, ImageRef))
    return tokens._replace(answer_pictures=pictures) if pictures else tokens


def _shortened(tokens: TokenizedAnswers, room: int) -> TokenizedAnswers:
    lost = max(0, len(tokens.prompt) - room)
    return tokens._replace(prompt=tokens.prompt[lost:], num_lost=tokens.num_lost + lost)


def columns_of(kind: type) -> dict[str, tuple[str, str]]:
    """Column -> (field, "image", "text", "query", "optional", "turns", "number" or "object"), from the annotations of a
    kind's dataclass. optional: a text, or "" for none.

    Raises PluginError for a class that is no kind of example.
    """
    if not is_dataclass(kind):
        raise _no_kind(kind, "is no dataclass", "An example kind is a frozen dataclass: mmalign/contract/examples.py.")
    hints = typing.get_type_hints(kind, include_extras=True)
    columns: dict[str, tuple[str, str]] = {}
    for field in fields(kind):
        hint = hints[field.name]
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        if Keep in marks:
            raise _no_kind(kind, f"marks `{field.name}` with the class Keep", "Write Keep(); for a text, Kept.")
        kept = [mark.column or field.name for mark in marks if isinstance(mark, Keep)]
        read_as = _read_as(get_args(hint)[0] if marks else hint)
        if read_as == "text":
            is_query = any(isinstance(mark, AsQuery) for mark in marks)
            read_as = "query" if is_query else "optional" if field.default == "" else "text"
        if read_as == "turns":
            columns["sequences"] = ("prompt", read_as)
        elif field.name not in kept:
            columns[field.name] = (field.name, read_as)
        columns |= {name: (field.name, "object") for name in kept}
    if columns.get("key") != ("key", "object"):
        raise _no_kind(kind, "has no field `key: Kept`", "`Kept` of mmalign.contract.examples: a text as it is.")
    if "sequences" in columns and not {"prompt", "answers"} <= {*hints, *dir(kind)}:
        hint = "Name the prompt so; answers(self) returns a tuple of Turns, in the order of `sequences`."
        raise _no_kind(kind, "has Turns, and no field `prompt` or no method `answers`", hint)
    return columns


def _no_kind(kind: type, what: str, hint: str) -> PluginError:
    return PluginError(f"example kind {kind.__module__}:{kind.__qualname__} {what}", hint=hint)


def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Join encoded rows. Raises DataError where two images of a batch differ in shape."""
    return Batch({name: _join(name, [row[name] for row in rows]) for name in rows[0]} if rows else {})


def join_answers(rows: Sequence[TokenizedAnswers]) -> Sequences:
    """N prompts with their answers. Raises DataError where some prompts are pictures and some are texts."""
    sequences = Sequences.from_lists(
        [row.prompt for row in rows], [row.answers for row in rows], [row.learn for row in rows]
    )
    pictures = [row.picture for row in rows if row.picture is not None]
    if 0 < len(pictures) < len(rows):
        raise DataError("a batch holds pictures and texts as prompts; give data with one of the two")
    of_answers = [picture for row in rows for picture in row.answer_pictures]
    return replace(
        sequences,
        pictures=torch.stack(pictures) if pictures else None,
        answer_pictures=torch.stack(of_answers) if of_answers else None,
    )


class _Tokens(typing.NamedTuple):
    """Marks a row of a ragged column."""

    ids: torch.Tensor


def _read_as(hint: Any) -> str:
    if hint in (Content, Turns, tuple[Content, ...], tuple[Turns, ...]):
        return "turns"
    return {ImageRef: "image", str: "text", int: "number", float: "number", bool: "number"}.get(hint, "object")


def _join(name: str, values: list[Any]) -> Column:
    if isinstance(values[0], _Tokens):
        return Ragged.from_list([value.ids for value in values])
    if isinstance(values[0], TokenizedAnswers):
        return join_answers(values)
    if not isinstance(values[0], torch.Tensor):
        return tuple(values)
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise DataError(f"column {name!r} holds rows of different shapes: {sorted(shapes)}")
    return torch.stack(values)
