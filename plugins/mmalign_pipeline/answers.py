"""Prompts with several answers each, in a JSONL file, and the same answers in the form that rewards get.

    write_rows(path, (record.as_row() for record in records))
    records = read_answers(path)                     # [Answered(key, prompt, completions, ended, ...), ...]
    answers = as_answers(records)                    # an Answers, for a RewardList

A line is {"key", "prompt", "completions": [...]} and, where known, "ended" (whether each answer came to its end),
"solution" and the other "columns" of the prompt's row, for rewards that read them. A prompt or an answer is text; a
prompt may also be a list of {"role", "content"}.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.contract.examples import Turns
from mmalign.errors import DataError
from mmalign.files import write_atomically
from mmalign.language.messages import as_rows, as_turns, read_messages, tools_of, with_tools
from mmalign.reading import is_text, parse_json, read_text

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers

_SHOWN = 3


@dataclass(frozen=True)
class Answered:
    """A prompt with K answers. ended: for each, whether it came to its end before the limit."""

    key: str
    prompt: Turns
    completions: tuple[str, ...]
    ended: tuple[bool, ...]
    solution: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"key": self.key, **prompt_columns(self.prompt)}
        row |= {"completions": list(self.completions), "ended": list(self.ended)}
        row |= {"solution": self.solution} if self.solution else {}
        return row | ({"columns": dict(self.columns)} if self.columns else {})


def prompt_columns(prompt: Turns) -> dict[str, Any]:
    """`prompt` and, where its conversation has any, `tools`, as in tables."""
    tools = tools_of(prompt)
    return {"prompt": as_rows(prompt), **({"tools": tools} if tools else {})}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line; the file is written completely or not at all. Raises MmalignError."""

    def fill(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    write_atomically(path, fill)


def read_answers(path: Path) -> list[Answered]:
    """Raises DataError that names the first faulty lines."""
    records: list[Answered] = []
    mistakes, first = [], dict[str, int]()
    for number, text in enumerate(_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        record = _record(text, f"{path.name}:{number}")
        if not isinstance(record, str) and record.key in first:
            record = f"key {record.key!r} is that of line {first[record.key]} too"
        if isinstance(record, str):
            mistakes.append(f"  line {number}: {record}")
            continue
        first[record.key] = number
        records.append(record)
    if mistakes:
        more = [f"  and {len(mistakes) - _SHOWN} more"] if len(mistakes) > _SHOWN else []
        lines = "\n".join([*mistakes[:_SHOWN], *more])
        raise DataError(
            f"{path}: {len(mistakes)} lines are not answers to a prompt:\n{lines}",
            hint='A line is {"key": "1", "prompt": "...", "completions": ["...", "..."]}; mmalign sample writes them.',
        )
    if not records:
        raise DataError(f"{path}: no answers in it", hint="Make some: mmalign sample --backbone MODEL --dataset DATA")
    return records


def _text(path: Path) -> str:
    try:
        return read_text(path, "utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: {reason}", hint="Give the file that mmalign sample wrote.") from error


def _record(text: str, key: str) -> "Answered | str":
    """A line's record, or what is wrong with it."""
    try:
        row = parse_json(text)
    except ValueError as error:
        return f"broken JSON: {error}"
    if not is_text(row):
        return "a text holds half of a character (a lone surrogate)"
    if not isinstance(row, dict):
        return "not a JSON object"
    prompt, texts = _turns(row.get("prompt"), row.get("tools")), row.get("completions")
    if prompt is None:
        return "its prompt is neither a text nor a list of {role, content}"
    if not isinstance(texts, list) or not texts or not all(isinstance(item, str) for item in texts):
        return "its completions are not a list of texts"
    ended = row.get("ended", [True] * len(texts))
    if not isinstance(ended, list) or len(ended) != len(texts) or not all(isinstance(item, bool) for item in ended):
        return f"its `ended` is not a list of {len(texts)} values true or false"
    columns = row.get("columns", {})
    if not isinstance(columns, dict):
        return "its columns are not a JSON object"
    solution = str(row.get("solution", ""))
    return Answered(str(row.get("key", key)), prompt, tuple(texts), tuple(ended), solution, columns)


def _turns(value: Any, tools: Any) -> "Turns | None":
    if isinstance(value, str):
        return value
    messages = read_messages(value)
    messages = messages if isinstance(messages, str) else with_tools(messages, tools)
    return None if isinstance(messages, str) or not messages else as_turns(messages)


def as_answers(records: Sequence[Answered]) -> "Answers":
    """All answers, in their order. Their tokens are their bytes, because the model that wrote them is not known
    here."""
    from mmalign.language.sequences import Sequences
    from mmalign.rl.answers import Answers
    from mmalign_pipeline.bytes import ByteProcessor

    processor = ByteProcessor()
    encoded = []
    for record in records:
        pairs = zip(record.completions, record.ended, strict=True)
        encoded.append([processor.ids(text, end=ended) for text, ended in pairs])
    prompts = [processor.prompt(record.prompt) for record in records]
    return Answers(
        keys=tuple(record.key for record in records for _ in record.completions),
        prompts=tuple(record.prompt for record in records for _ in record.completions),
        texts=tuple(text for record in records for text in record.completions),
        solutions=tuple(record.solution for record in records for _ in record.completions),
        ended=tuple(ended for record in records for ended in record.ended),
        sequences=Sequences.from_lists(prompts, encoded),
        processor=processor,
        columns=tuple(record.columns for record in records for _ in record.completions),
    )
