"""Counts of what went wrong with sampled answers: per step in metrics.jsonl, per run in its summary.

counts = answer_counts(batch)                  # {"answers": 64, "answers_empty": 1, ...}, of this process
lines = worth_telling(counts_of_all_steps)     # ["3 of 64 answers empty", ...]: counts that are not zero
"""

from collections.abc import Mapping

from torch import Tensor

from mmalign.contract.batch import Batch
from mmalign.rl.rollout_batch import REWARD, scored

UNLEARNT = "prompts_unlearnt"
NO_DIFFERENCE = "no_difference"  # metric: share of prompts that an objective skips, as their answers score the same
WITHOUT = "answers_without_"  # followed by a reward's name
_UNSCORED = "answers_unscored"
_TOLD = {
    _UNSCORED: "answers that no reward scored",
    "answers_empty": "answers empty",
    "answers_cut": "answers cut at rollout.max_tokens",
    UNLEARNT: "prompts skipped because all their answers scored the same",
    "prompts_cut": "prompts cut to fit the context",
    "stopped_turns": "episodes ended by rollout.max_turns",
}
# Not shown: totals, and counts that repeat another line when an environment is used.
_NOT_TOLD = ("prompts", "answers", "episodes", "turns", "stopped_length")


def answer_counts(batch: Batch) -> dict[str, int]:
    """Counts of a prepared batch of N prompts, this process's share."""
    written = [text for texts in batch["written"] for text in texts]
    return {
        "prompts": len(batch),
        "answers": len(written),
        "answers_empty": sum(not text.strip() for text in written),
        "answers_cut": int((~batch["ended"]).sum()),
        "prompts_cut": int((batch["num_lost"] > 0).sum()) if "num_lost" in batch else 0,
        **_without_scores(batch),
    }


def _without_scores(batch: Batch) -> dict[str, int]:
    """Answers to which each reward gave None, and those to which all did; counts of 0 are left out."""
    counts = {
        f"{WITHOUT}{name.removeprefix(REWARD)}": int(column.isnan().sum())
        for name, column in batch.columns.items()
        if name.startswith(REWARD) and isinstance(column, Tensor)
    }
    return {name: count for name, count in {**counts, _UNSCORED: int((~scored(batch)).sum())}.items() if count}


def unlearnt_prompts(metrics: Mapping[str, float], prompts: int) -> dict[str, int]:
    """Prompts that the objective skipped in a step, from its metrics. prompts: of all processes."""
    return {UNLEARNT: round(metrics[NO_DIFFERENCE] * prompts)} if NO_DIFFERENCE in metrics else {}


def worth_telling(counts: Mapping[str, int]) -> list[str]:
    """Lines such as "3 of 64 answers empty", by importance; an environment's own counts last."""
    names = [*_TOLD, *(name for name in counts if name not in _TOLD and name not in _NOT_TOLD)]
    lines = []
    for name in (name for name in names if counts.get(name)):
        text = _TOLD.get(name, name.replace("_", " "))
        if name.startswith(WITHOUT):
            text = f"answers that the reward {name.removeprefix(WITHOUT)} did not score"
        total = counts.get(text.partition(" ")[0]) if name in _TOLD or name.startswith(WITHOUT) else None
        lines.append(f"{counts[name]:,} {'' if total is None else f'of {total:,} '}{text}")
    return lines
