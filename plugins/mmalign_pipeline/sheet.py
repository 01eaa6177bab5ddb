"""A sheet for people who rank answers: written blind, read back with its ties and gaps.

    write_sheet(Path("sheet.csv"), records, seed=0)       # the answers of a prompt in shuffled order
    ranked = read_sheet(Path("sheet.csv"), records)       # Ranked

One row for each answer: key, prompt, answer, id and an empty rank. People write 1 for the best, then 2 and so on, and
the same number for answers that tie. An id is a hash of the answer, so rows may be sorted, and their order tells
nothing.
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.contract.examples import Turns
from mmalign.errors import DataError, UsageError
from mmalign.files import write_atomically
from mmalign.hashing import stable_hash
from mmalign.reading import parse_json, read_text
from mmalign_pipeline.answers import Answered, write_rows
from mmalign_pipeline.rank import Ranked, count_ties, distinct, ranking_row

COLUMNS = ("key", "prompt", "answer", "id", "rank")
SUFFIXES = (".csv", ".jsonl")
_SHOWN = 5


def check_suffix(path: Path) -> None:
    """Raises UsageError for a file whose name ends neither in .csv nor in .jsonl."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a sheet is a .csv or a .jsonl file", hint="For example: sheet.csv.")


def write_sheet(path: Path, records: Sequence[Answered], seed: int = 0) -> dict[str, int]:
    """Every answer that `rank` would rank, once. Returns counts; raises MmalignError."""
    check_suffix(path)
    rows = [row for record in records for row in _rows(record, seed)]
    if path.suffix.lower() == ".jsonl":
        write_rows(path, rows)
    else:
        write_atomically(path, lambda partial: _write_csv(partial, rows))
    asked = len({row["key"] for row in rows})
    return {"prompts": asked, "answers": len(rows), "left_out": len(records) - asked}


def read_sheet(path: Path, records: Sequence[Answered]) -> Ranked:
    """The rankings that people gave; raises DataError that names each unreadable line.

    An answer without a rank is left out, and so is a prompt with fewer than two ranked answers; both are counted.
    """
    check_suffix(path)
    known = {record.key: {answer_id(record.completions[p]): p for p in distinct(record)} for record in records}
    given: dict[tuple[str, str], float] = {}
    lines: dict[tuple[str, str], int] = {}
    mistakes: list[str] = []
    for number, row in _read(path):
        entry = _cell(row, known) if isinstance(row, Mapping) else row
        if not isinstance(entry, str) and (entry[0], entry[1]) in lines:
            entry = f"the answer of line {lines[entry[0], entry[1]]} once more"
        if isinstance(entry, str):
            mistakes.append(f"  line {number}: {entry}")
            continue
        key, name, value = entry
        lines[key, name] = number
        if value is not None:
            given[key, name] = value
    if mistakes:
        more = [f"  and {len(mistakes) - _SHOWN} more"] if len(mistakes) > _SHOWN else []
        raise DataError(
            f"{path}: {len(mistakes)} rows cannot be read:\n" + "\n".join([*mistakes[:_SHOWN], *more]),
            hint="A rank is a number, 1 for the best; do not change key and id.",
        )
    return _ranked(records, known, given)


def answer_id(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _ranked(
    records: Sequence[Answered], known: Mapping[str, Mapping[str, int]], given: Mapping[tuple[str, str], float]
) -> Ranked:
    rows, counts = [], dict.fromkeys(("prompts", "answers", "tied", "all_tied", "without_rank", "left_out"), 0)
    for record in records:
        ranked = {place: given[record.key, n] for n, place in known[record.key].items() if (record.key, n) in given}
        if len(known[record.key]) > 1:  # else the sheet does not have the prompt
            counts["without_rank"] += len(known[record.key]) - len(ranked)
        if len(ranked) < 2:
            counts["left_out"] += 1
            continue
        ranks = list(ranked.values())
        rows.append(ranking_row(record, list(ranked), ranks))
        count_ties(counts, ranks)
    return Ranked(rows, counts)


def _rows(record: Answered, seed: int) -> Iterator[dict[str, Any]]:
    kept = distinct(record)
    if len(kept) < 2:
        return
    for index in sorted(kept, key=lambda p: stable_hash("sheet", seed, record.key, record.completions[p])):
        text = record.completions[index]
        yield {"key": record.key, "prompt": _shown(record.prompt), "answer": text, "id": answer_id(text), "rank": None}


def _shown(prompt: Turns) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m.role}: {m.content}" for m in prompt)


def _cell(row: Mapping[str, Any], known: Mapping[str, Mapping[str, int]]) -> "tuple[str, str, float | None] | str":
    """(key, id, rank or None), or what is wrong."""
    key, name, rank = (row.get(column) for column in ("key", "id", "rank"))
    if not isinstance(key, str) or key not in known:
        return f"no prompt has the key {key!r}"
    if not isinstance(name, str) or name not in known[key]:
        return f"no answer to {key!r} has the id {name!r}"
    if rank is None or (isinstance(rank, str) and not rank.strip()):
        return key, name, None
    try:
        value = math.nan if isinstance(rank, bool) else float(rank)
    except (TypeError, ValueError):
        value = math.nan
    return (key, name, value) if math.isfinite(value) else f"rank {rank!r} is not a number"


def _write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _read(path: Path) -> "Iterator[tuple[int, Mapping[str, Any] | str]]":
    """(line, row, or what is wrong with it)."""
    try:
        text = read_text(path, "utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: {reason}", hint="Make a sheet: mmalign rank ANSWERS --export sheet.csv") from error
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, _json(line)
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [column for column in ("key", "id", "rank") if column not in header]
        if missing:
            raise DataError(
                f"{path}: no column {' or '.join(missing)}; it has {', '.join(header) or 'none'}",
                hint="Use the file that mmalign rank ANSWERS --export SHEET writes, with ranks filled in.",
            )
        for cells in reader:
            if cells:
                whole = len(cells) == len(header)
                yield reader.line_num, dict(zip(header, cells, strict=True)) if whole else "wrong number of cells"
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}", hint="Save it as CSV with commas.") from error


def _json(line: str) -> Any:
    try:
        row = parse_json(line)
    except ValueError as error:
        return f"broken JSON: {error}"
    return row if isinstance(row, dict) else "not a JSON object"
