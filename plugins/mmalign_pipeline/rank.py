"""Ranks answers by a judge, which is any reward or a weighted list of rewards: `mmalign rank`.

    ranked = rank(records, scores, tie=0.1)         # Ranked: rows for a JSONL file of rankings, and counts

Rows have the columns of `ranking` data: prompt, completions, ranks. Ranks start at 1, the best, and tied answers share
one (1, 2, 2, 4). An answer that occurs twice under a prompt is ranked once. Empty answers are left out, because nothing
can be learnt from them, and so is a prompt with fewer than two other answers. All of these are counted.
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

_AT_ONCE = 2048  # answers scored together, which bounds the memory


class RankConfig(BaseModel):
    """The answers, and the judge or the people who rank them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: str = Field(description="the file that `mmalign sample` wrote")
    judge: tuple[dict[str, JsonValue], ...] = Field(
        (),
        description='a reward, such as vader or {"name": "length", "target": 20}, or a list, summed by `weight`',
    )
    sheet: str = Field(
        "", description="instead of a judge, a file (.csv or .jsonl) that people fill in; created if absent"
    )
    tie: float = Field(0.0, ge=0, description="scores no more than this below the best score of a rank share that rank")

    _by_name = field_validator("judge", mode="before")(reward_list)

    @model_validator(mode="after")
    def _judge_or_people(self) -> "RankConfig":
        if bool(self.judge) == bool(self.sheet):
            raise ValueError("give either a judge or a sheet for people")
        return self


@dataclass(frozen=True)
class Ranked:
    """rows: as JSON; counts: of ranked, tied and left-out prompts and answers."""

    rows: list[dict[str, Any]]
    counts: Mapping[str, int]


def judge_scores(
    catalog: "Catalog",
    judge: Sequence[Mapping[str, Any]],
    records: Sequence[Answered],
    device: "torch.device",
    say: Callable[[str], None],
) -> list[list[float]]:
    """The weighted sum of the judge's rewards for each answer of each record, NaN where every reward gave None; raises
    UsageError and RewardError."""
    from mmalign.rl.rewards import RewardList

    rewards = RewardList.build(catalog, judge, device, say, section="judge")
    rewards.check_pair(("text", "text"))
    rewards.check_columns(tuple(dict.fromkeys(name for record in records for name in record.columns)))
    scores: list[float] = []
    for batch in _parts(records):
        scored = rewards.score(as_answers(batch))
        scores += scored.total.masked_fill(scored.unscored, math.nan).tolist()
    by_record, start = [], 0
    for record in records:
        by_record.append(scores[start : start + len(record.completions)])
        start += len(record.completions)
    return by_record


def to_rank(config: RankConfig) -> list[Answered]:
    """The answers of the file; raises DataError where it cannot be read, or no prompt has two different answers."""
    records = read_answers(Path(config.answers).expanduser())
    if all(len(distinct(record)) < 2 for record in records):
        raise DataError(
            f"{config.answers}: no prompt has two different answers",
            hint="Sample more answers to each prompt, or at a higher temperature.",
        )
    return records


def rank(records: Sequence[Answered], scores: Sequence[Sequence[float]], tie: float = 0.0) -> Ranked:
    """scores: one for each answer of each record, higher is better; an answer whose score is NaN is not ranked."""
    names = ("prompts", "answers", "tied", "all_tied", "repeated", "empty", "without_score", "left_out")
    rows, counts = [], dict.fromkeys(names, 0)
    for record, values in zip(records, scores, strict=True):
        kept = distinct(record)
        counts["empty"] += sum(not text.strip() for text in record.completions)
        counts["repeated"] += sum(bool(text.strip()) for text in record.completions) - len(kept)
        counts["without_score"] += sum(math.isnan(values[index]) for index in kept)
        kept = [index for index in kept if not math.isnan(values[index])]
        if len(kept) < 2:
            counts["left_out"] += 1
            continue
        chosen = [values[index] for index in kept]
        ranks = places(chosen, tie)
        rows.append({**ranking_row(record, kept, ranks), "scores": [round(value, 6) for value in chosen]})
        count_ties(counts, ranks)
    return Ranked(rows, counts)


def distinct(record: Answered) -> list[int]:
    """Indices of the answers that are not empty, one for each text."""
    first: dict[str, int] = {}
    for index, text in enumerate(record.completions):
        if text.strip():
            first.setdefault(text, index)
    return list(first.values())


def ranking_row(record: Answered, kept: Sequence[int], ranks: Sequence[float]) -> dict[str, Any]:
    texts = [record.completions[index] for index in kept]
    return {"key": record.key, **prompt_columns(record.prompt), "completions": texts, "ranks": list(ranks)}


def count_ties(counts: dict[str, int], ranks: Sequence[float]) -> None:
    """Count a row; an answer is tied if it shares its rank with another."""
    counts["prompts"] += 1
    counts["answers"] += len(ranks)
    counts["tied"] += sum(ranks.count(value) > 1 for value in ranks)
    counts["all_tied"] += len(set(ranks)) == 1


def places(scores: Sequence[float], tie: float) -> list[int]:
    """Ranks from 1, the highest score first. Scores within `tie` of the best score of a rank share that rank."""
    ranks, best, current = [0] * len(scores), float("inf"), 0
    for number, index in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i]), start=1):
        if best - scores[index] > tie:
            best, current = scores[index], number
        ranks[index] = current
    return ranks


def _parts(records: Sequence[Answered]) -> list[list[Answered]]:
    parts: list[list[Answered]] = [[]]
    for record in records:
        if sum(len(r.completions) for r in parts[-1]) + len(record.completions) > _AT_ONCE and parts[-1]:
            parts.append([])
        parts[-1].append(record)
    return parts
