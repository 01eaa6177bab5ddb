"""Answers put in order by a judge, which is any reward or a weighted list of them: `mmalign rank`.

    found = rank(records, scores, tie=0.1)         # Ranked: rows for a JSONL file of rankings, and counts

Rows have the columns that `ranking` data are read from: prompt, completions, ranks. Ranks are places, 1 the best, and
answers that tie share one (1, 2, 2, 4). An answer that stands twice under a prompt is ranked once; one that says
nothing cannot be learnt from; a prompt with fewer than two others left is left out. All of it is counted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from mmalign.errors import DataError
from mmalign.rl.config import reward_list
from mmalign_pipeline.answers import Answered, as_answers, prompt_columns, read_answers

if TYPE_CHECKING:
    import torch

    from mmalign.registry.catalog import Catalog

_AT_ONCE = 2048  # answers scored together: what is held of them stays small


class RankConfig(BaseModel):
    """Which answers, and what or who ranks them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: str = Field(description="the file that sample wrote")
    judge: tuple[dict[str, JsonValue], ...] = Field(
        (),
        description='a reward, as vader or {"name": "length", "target": 20}, or a list, added up by `weight`',
    )
    sheet: str = Field(
        "", description="in place of a judge, a file (.csv or .jsonl) that people fill in; made if absent"
    )
    tie: float = Field(0.0, ge=0, description="scores that are no more than this below the best of a place share it")

    _by_name = field_validator("judge", mode="before")(reward_list)

    @model_validator(mode="after")
    def _judge_or_people(self) -> "RankConfig":
        if bool(self.judge) == bool(self.sheet):
            raise ValueError("give a judge, or a sheet for people")
        return self


@dataclass(frozen=True)
class Ranked:
    """rows: as JSON; counts: what was ranked, what tied, and what was left out."""

    rows: list[dict[str, Any]]
    counts: Mapping[str, int]


def judge_scores(
    catalog: "Catalog",
    judge: Sequence[Mapping[str, Any]],
    records: Sequence[Answered],
    device: "torch.device",
    say: Callable[[str], None],
) -> list[list[float]]:
    """The weighted sum of the judge's rewards for each answer of each record, NaN where every one gave None; raises
    UsageError and RewardError."""
    from mmalign.rl.rewards import RewardList

    rewards = RewardList.build(catalog, judge, device, say, section="judge")
    rewards.check_columns(tuple(dict.fromkeys(name for record in records for name in record.columns)))
    scores: list[float] = []
    for part in _parts(records):
        found = rewards.score(as_answers(part))
        scores += found.total.masked_fill(found.unscored, math.nan).tolist()
    by_record, start = [], 0
    for record in records:
        by_record.append(scores[start : start + len(record.completions)])
        start += len(record.completions)
    return by_record


def to_rank(config: RankConfig) -> list[Answered]:
    """The answers of its file; raises DataError where it cannot be read, or no prompt has two that differ."""
    records = read_answers(Path(config.answers).expanduser())
    if all(len(distinct(record)) < 2 for record in records):
        raise DataError(
            f"{config.answers}: no prompt has two answers that differ",
            hint="Sample more answers to each prompt, or at a higher temperature.",
        )
    return records


def rank(records: Sequence[Answered], scores: Sequence[Sequence[float]], tie: float = 0.0) -> Ranked:
    """scores: higher is better, of each answer of each record; an answer whose score is NaN is not ranked."""
    names = ("prompts", "answers", "tied", "all_tied", "repeated", "empty", "without_score", "left_out")
    rows, counts = [], dict.fromkeys(names, 0)
    for record, values in zip(records, scores, strict=True):
        kept = distinct(record)
        counts["empty"] += sum(not text.strip() for text in record.completions)
        counts["repeated"] += sum(bool(text.strip()) for text in record.completions) - len(kept)
        counts["without_score"] += sum(math.isnan(values[place]) for place in kept)
        kept = [place for place in kept if not math.isnan(values[place])]
        if len(kept) < 2:
            counts["left_out"] += 1
            continue
        chosen = [values[place] for place in kept]
        ranks = places(chosen, tie)
        rows.append({**ranking_row(record, kept, ranks), "scores": [round(value, 6) for value in chosen]})
        count_ties(counts, ranks)
    return Ranked(rows, counts)


def distinct(record: Answered) -> list[int]:
    """Places of answers that say something, each text once."""
    first: dict[str, int] = {}
    for place, text in enumerate(record.completions):
        if text.strip():
            first.setdefault(text, place)
    return list(first.values())


def ranking_row(record: Answered, kept: Sequence[int], ranks: Sequence[float]) -> dict[str, Any]:
    texts = [record.completions[place] for place in kept]
    return {"key": record.key, **prompt_columns(record.prompt), "completions": texts, "ranks": list(ranks)}


def count_ties(counts: dict[str, int], ranks: Sequence[float]) -> None:
    """Count a row: tied are answers that share their rank with another."""
    counts["prompts"] += 1
    counts["answers"] += len(ranks)
    counts["tied"] += sum(ranks.count(value) > 1 for value in ranks)
    counts["all_tied"] += len(set(ranks)) == 1


def places(scores: Sequence[float], tie: float) -> list[int]:
    """Places from 1, the highest score first. Those within `tie` of the best of a place share it, not of each other."""
    found, best, current = [0] * len(scores), float("inf"), 0
    for number, place in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i]), start=1):
        if best - scores[place] > tie:
            best, current = scores[place], number
        found[place] = current
    return found


def _parts(records: Sequence[Answered]) -> list[list[Answered]]:
    parts: list[list[Answered]] = [[]]
    for record in records:
        if sum(len(r.completions) for r in parts[-1]) + len(record.completions) > _AT_ONCE and parts[-1]:
            parts.append([])
        parts[-1].append(record)
    return parts
