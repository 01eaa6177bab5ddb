"""The readers of text data: documents, answers to prompts, preferences and rankings.

    mmalign train --objective sft --dataset answers.jsonl
    mmalign train --objective dpo --dataset pairs.parquet --set dataset.validation=held_out.jsonl
    mmalign train --objective dpo --dataset hf:trl-lib/ultrafeedback_binarized
    mmalign train --objective dpo --dataset ./saved --set dataset.split=train_prefs

They read tables (CSV, TSV, JSON lines, parquet, what `datasets` saves) with TRL's columns: `text`; `prompt` and
`completion`, or `messages`; `prompt`, `chosen` and `rejected`; `prompt`, `completions` and `ranks`; `prompt`,
`completion` and `label`; `text` and `label`; `prompt` alone; and with those of sentence-transformers: `anchor` and
`positive`, `query` and `document`, perhaps with `negative`. They also read ShareGPT's `conversations` and Alpaca's
`instruction`, `input` and `output`. Prompts or answers may be pictures (`mmalign_data.pictures`). A comparison with a
column `num_example_per_prompt` weighs as many times less. Documents may be .txt files too, cut at blank lines into
pieces.
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from mmalign.contract.examples import TextLabel
from mmalign.errors import DataError, WrongKindError
from mmalign.hashing import stable_hash
from mmalign_data.columns import Columns
from mmalign_data.normal import FORMATS, SHARE, WEIGHED, Normal, looks_like, normalise
from mmalign_data.options import TextFilesConfig
from mmalign_data.pictures import Source, with_pictures
from mmalign_data.published import MORE_NEGATIVES, WEIGHT, form_of, note_on, recast
from mmalign_data.rows import lines, separator_hint, table_rows
from mmalign_data.splits import Part, choose, find_splits

_SHOWN = 3
_OTHER_NAMES = {  # in published data sets, such as GSM8K (question, answer) and MATH (problem, solution)
    "prompt": ("question", "problem", "query", "instruction", "input"),
    "completion": ("answer", "response", "solution", "output", "target"),
    "text": ("content", "sentence", "document", "body"),
    "label": ("class", "category", "sentiment"),
    "chosen": ("preferred", "better", "response_chosen"),
    "rejected": ("dispreferred", "worse", "response_rejected"),
    "anchor": ("question", "sentence1", "premise", "title", "sentence_A"),
    "positive": ("answer", "sentence2", "hypothesis", "pos", "body", "passage", "sentence_B"),
}


class _TextFiles:
    """Rows of one kind, held compactly as JSON texts."""

    Config: ClassVar[type[BaseModel]] = TextFilesConfig
    kind: ClassVar[str]

    def __init__(self, table: "_Table", chosen: np.ndarray, part: Part) -> None:
        self._rows, self._keys = pa.array(table.rows, pa.large_string()), pa.array(table.keys, pa.large_string())
        self._chosen, self._source, self._ignored = chosen, part.where, part.ignored
        self._skipped, self._columns, self._notes = table.skipped, table.columns, table.notes

    @classmethod
    def build(cls, config: TextFilesConfig, split: str) -> Self | None:
        """Read everything; None where nothing is held out, or there is no test split. Raises DataError."""
        part = choose(config, cls.kind, split)
        if part is None or (part.dealt and split == "validation" and not config.holdout):
            return None
        table = _read(part, cls.kind, config)
        held_out = np.full(len(table.rows), split == "validation")
        if part.dealt:
            # By the prompt, so that all examples of one prompt are on the same side.
            shares = (stable_hash("holdout", _stem(json.loads(row))) / 2**64 for row in table.rows)
            held_out = np.fromiter(shares, float, len(table.rows)) < config.holdout
        chosen = np.flatnonzero(held_out == (split == "validation"))
        if not len(chosen):
            if split == "validation":
                return None
            every = len(table.rows)
            raise DataError(f"{part.where}: all {every} examples are held out", hint="--set dataset.holdout=0")
        return cls(table, chosen, part)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Any:
        number = int(self._chosen[index])
        row = json.loads(self._rows[number].as_py())
        if "columns" in row:
            row = {
                **row,
                "columns": self._columns.of(row["columns"]),
                "solution": self._columns.solution(row["columns"]),
            }
        return FORMATS[self.kind].build(self._keys[number].as_py(), row)

    def text_answers(self) -> Iterator[str]:
        """Every answer that is a text; of prompts, the solutions. No picture is read."""
        for number in self._chosen.tolist():
            row = json.loads(self._rows[number].as_py())
            if "columns" in row:
                yield from filter(None, [self._columns.solution(row["columns"])])
            yield from (answer for answer in row.get("answers", ()) if isinstance(answer, str))

    def report(self) -> Mapping[str, Any]:
        """Counts: kept in this part, and skipped in the whole source by reason. `entries`: every row, once; `ignored`:
        files of a folder that are no tables."""
        counts = {"kept": len(self), "skipped": dict(self._skipped), "source": self._source}
        counts |= {"ignored": dict(self._ignored), "entries": {"read": len(self._rows), **self._skipped}}
        notes = [*self._notes, *self._columns.notes()]
        return {**counts, "notes": notes} if notes else counts

    def fingerprint(self) -> str:
        """A hash of the texts and of the part."""
        digest = hashlib.sha256(self.kind.encode() + self._chosen.tobytes())
        for buffer in self._rows.buffers()[1:]:
            digest.update(buffer or b"")
        return digest.hexdigest()[:16]


class TextDocuments(_TextFiles):
    kind: ClassVar[str] = "text"


class PromptFiles(_TextFiles):
    """Equal prompts, as in tables of answers, stay separate examples, one for each row."""

    kind: ClassVar[str] = "prompt"


class CompletionFiles(_TextFiles):
    kind: ClassVar[str] = "completion"


class PreferenceFiles(_TextFiles):
    kind: ClassVar[str] = "preference"


class RankingFiles(_TextFiles):
    kind: ClassVar[str] = "ranking"


class LabelledCompletionFiles(_TextFiles):
    kind: ClassVar[str] = "labelled-completion"


class TextPairFiles(_TextFiles):
    kind: ClassVar[str] = "text-pair"


class LabelledTextFiles(_TextFiles):
    """Labels may be words or numbers; `classes` are all labels of the training file, sorted."""

    kind: ClassVar[str] = "text-label"
    classes: tuple[str, ...] = ()

    @classmethod
    def build(cls, config: TextFilesConfig, split: str) -> Self | None:
        """As other files; a label that no training example has raises DataError."""
        data = super().build(config, split)
        if data is None:
            return None
        known = data if split == "train" or len(data) < len(data._rows) else super().build(config, "train")
        data.classes = known._labels() if known is not None else ()
        new = sorted(set(data._labels()) - set(data.classes))
        if new:
            raise DataError(f"{data._source}: label {new[0]!r} is in no training example", hint="Correct the labels.")
        return data

    def _labels(self) -> tuple[str, ...]:
        return tuple(sorted({json.loads(row)["label"] for row in self._rows.to_pylist()}))

    def __getitem__(self, index: int) -> TextLabel:
        example = super().__getitem__(index)
        return dataclasses.replace(example, label=self.classes.index(example.label))


def kind_of(path: str, options: Mapping[str, Any]) -> str:
    """The example kind that the columns of the first file make, or "" where there are none. options: as the user gave
    them."""
    known = {name: value for name, value in options.items() if name in TextFilesConfig.model_fields}
    try:
        config = TextFilesConfig.model_validate({**known, "path": path})
    except ValidationError:
        return ""  # the run's own check reports the wrong option
    splits = find_splits(path, config.subset, "text")
    for file in splits.get(config.split or "train") or next(iter(splits.values())):
        if file.suffix.lower() == ".txt":
            return "text"
        for _, row in table_rows(file, config.separator):
            if not isinstance(row, str):
                own = _renamed(row, config)
                pictured = with_pictures(own, _source(file, 1, config), "") if config.pictures else own
                recast_row = recast(own if isinstance(pictured, str) else pictured, config.alpaca)
                return "" if isinstance(recast_row, str) else looks_like(list(recast_row))
    return ""


class _Table(NamedTuple):
    """Rows as JSON; their keys; how many were skipped, by reason; the columns of prompts; notes to show."""

    rows: list[str]
    keys: list[str]
    skipped: Counter[str]
    columns: Columns
    notes: list[str]


def _read(part: Part, kind: str, config: TextFilesConfig) -> _Table:
    """Reads all files of the part."""
    rows, keys, skipped, examples, weighed = [], [], Counter[str](), [], False
    columns = Columns("solution" if "solution" in config.columns else "")
    forms: dict[str, None] = {}
    directions: dict[str, str] = {}  # the first row of each
    for file in part.files:
        # Files of different splits often have the same name, so the key holds the split too.
        name = file.name if part.split in file.name else f"{part.split}/{file.name}"
        for line, found in _rows_of(file, kind, config, forms):
            if isinstance(found, str):
                skipped[found] += 1
                examples += [f"{name}:{line}: {found}"] * (len(examples) < _SHOWN)
            else:
                if "columns" in found:
                    found["columns"] = columns.add(found["columns"])
                weighed = weighed or "weight" in found
                directions.setdefault(_direction(found), f"{name}:{line}")
                rows.append(json.dumps(found, ensure_ascii=False))
                keys.append(f"{name}:{line}")
    bad = sum(skipped.values())
    total = len(rows) + bad
    if bad > config.max_bad * total or not rows:
        shown = "\n".join(f"  {example}" for example in examples)
        if not bad:
            raise DataError(f"{part.where}: no {kind} examples in it", hint="The file is empty.")
        raise DataError(
            f"{part.where}: {bad} of {total} rows cannot be used; dataset.max_bad={config.max_bad:g}\n{shown}",
            hint=f"Mend or remove them, or allow more: --set dataset.max_bad={math.ceil(20 * bad / total) / 20:g}",
        )
    _require_one_direction(directions, part.where)
    notes = [note for form in forms if (note := note_on(form, config.alpaca))]
    notes += [f"an example weighs 1 / {SHARE} in the loss"] * weighed
    return _Table(rows, keys, skipped, columns, notes)


def _rows_of(
    file: Path, kind: str, config: TextFilesConfig, forms: dict[str, None]
) -> Iterator[tuple[int, Normal | str]]:
    """(line or row number, normal form or why there is none). forms: collects the published forms of the rows."""
    if file.suffix.lower() == ".txt":
        yield from ((line, {"text": text}) for line, text in _pieces(file, config.piece))
        return
    checked = False
    for line, row in table_rows(file, config.separator):
        if isinstance(row, str):
            yield line, row
            continue
        own = _renamed(row, config)
        forms[MORE_NEGATIVES if kind == "text-pair" and "negative_2" in own else form_of(own)] = None
        if kind in WEIGHED and "weight" in own and SHARE not in own:
            forms[WEIGHT] = None
        pictured = with_pictures(own, _source(file, line, config), kind) if _may_picture(kind, config) else own
        renamed = pictured if isinstance(pictured, str) else recast(pictured, config.alpaca)
        if isinstance(renamed, str):
            yield line, renamed
            continue
        if not checked:
            _check_columns(file, kind, list(row), list(renamed))
            checked = True
        try:
            normal = normalise(kind, renamed)
        except KeyError as error:
            normal = f"no column {error.args[0]}"
        if not isinstance(normal, str) and "columns" in normal:
            normal["columns"] = {name: value for name, value in normal["columns"].items() if name in own}
        yield line, normal


def _direction(row: Normal) -> str:
    """Where a row has pictures: "prompt", "answers", or "" for nowhere."""
    if isinstance(row.get("prompt"), dict):
        return "prompt"
    return "answers" if any(isinstance(answer, dict) for answer in row.get("answers", ())) else ""


def _require_one_direction(directions: Mapping[str, str], where: str) -> None:
    """directions: of `_direction` -> the first such row. No model reads both in one batch."""
    if {"prompt", "answers"} <= directions.keys():
        raise DataError(
            f"{where}: pictures are prompts ({directions['prompt']}) and answers ({directions['answers']})",
            hint="Give a file of each: what is compared is either texts to a picture or pictures to a text.",
        )


def _may_picture(kind: str, config: TextFilesConfig) -> bool:
    return config.pictures and kind not in ("text", "text-label", "text-pair")


def _source(file: Path, number: int, config: TextFilesConfig) -> Source:
    return Source(file, number, Path(config.image_root).expanduser() if config.image_root else file.parent)


def _renamed(row: Mapping[str, Any], config: TextFilesConfig) -> dict[str, Any]:
    return {**row, **{name: row[column] for name, column in config.columns.items() if column in row}}


def _check_columns(file: Path, kind: str, columns: list[str], renamed: list[str]) -> None:
    wanted = FORMATS[kind].columns
    if any(names <= set(renamed) for names in wanted):
        return
    other = looks_like(renamed)
    looks = f"; that looks like {other} data" if other else ""
    choices = " or ".join(" and ".join(sorted(names, key=_first_side)) for names in wanted)
    if frozenset({"messages"}) in wanted:
        choices += " or conversations (ShareGPT) or instruction (Alpaca)"
    message = f"{file}: {kind} data needs the columns {choices}; it has {', '.join(columns) or 'none'}{looks}"
    renaming = json.dumps({name: _likely(name, columns) for name in sorted(wanted[0] - set(renamed))})
    hint = separator_hint(columns) or f"Rename them: --set 'dataset.columns={renaming}'"
    if other:
        raise WrongKindError(message, looks_like=other, hint=hint)
    raise DataError(message, hint=hint)


def _first_side(name: str) -> tuple[bool, str]:
    """A key that puts what is asked before its answers."""
    return name not in ("anchor", "query"), name


def _likely(wanted: str, columns: Sequence[str]) -> str:
    """The column that is probably meant, or NAME; only used in hints."""
    return next((name for name in _OTHER_NAMES.get(wanted, ()) if name in columns), "NAME")


def _pieces(file: Path, limit: int) -> Iterator[tuple[int, str]]:
    """(first line, text): paragraphs joined up to `limit` characters. A longer paragraph is cut between lines, and a
    longer line inside it. Nothing but blank lines is lost."""
    held: list[str] = []
    start = size = 0
    for number, line in lines(file):
        for piece in (line[i : i + limit] for i in range(0, len(line), limit)):
            if held and (size + len(piece) > limit or (not piece.strip() and size > limit / 2)):
                yield start, "".join(held).strip("\n")
                held, size = [], 0
            if piece.strip() or held:
                start = start if held else number
                held.append(piece)
                size += len(piece)
    if "".join(held).strip():
        yield start, "".join(held).strip("\n")


def _stem(row: Normal) -> Any:
    if "anchor" in row:
        return row["anchor"]
    return row["text"] if "text" in row else json.dumps(row["prompt"]) if row["prompt"] else json.dumps(row["answers"])
