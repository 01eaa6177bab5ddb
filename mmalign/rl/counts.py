"""What went wrong with sampled answers, counted: of each step in metrics.jsonl, of a whole run in its summary.

counts = answer_counts(batch)                  # {"answers": 64, "answers_empty": 1, ...}, of this process
lines = worth_telling(counts_of_all_steps)     # ["3 of 64 answers empty", ...]: counts that are not zero
"""

from collections.abc import Mapping

from torch import Tensor

from mmalign.contract.batch import Batch
from mmalign.rl.rollout_batch import REWARD, scored

UNLEARNT = "prompts_unlearnt"
NO_DIFFERENCE = "no_difference"  # the metric of objectives that leave such prompts out: the share of them
WITHOUT = "answers_without_"  # before a reward's name
_UNSCORED = "answers_unscored"
_TOLD = {
    _UNSCORED: "answers without any score: no reward had one for them",
    "answers_empty": "answers empty",
    "answers_cut": "answers cut at rollout.max_tokens",
    UNLEARNT: "prompts not learnt from, as all their answers scored the same",
    "prompts_cut": "prompts cut to fit the context",
    "stopped_turns": "episodes ended by rollout.max_turns",
}
# Beside others, with environments: they say the same again, or are not of what went wrong.
_NOT_TOLD = ("prompts", "answers", "episodes", "turns", "stopped_length")


def answer_counts(batch: Batch) -> dict[str, int]:
    """Of a prepared batch of N prompts, this process's share."""
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
    """Answers for which a reward gave None, by reward, and those for which every one did; nothing where none did."""
    parts = {name: column for name, column in batch.columns.items() if name.startswith(REWARD)}
    found = {
        f"{WITHOUT}{name.removeprefix(REWARD)}": int(column.isnan().sum())
        for name, column in parts.items()
        if isinstance(column, Tensor)
    }
    return {name: count for name, count in {**found, _UNSCORED: int((~scored(batch)).sum())}.items() if count}


def unlearnt_prompts(metrics: Mapping[str, float], prompts: int) -> dict[str, int]:
    """Of a step's metrics, where the objective leaves prompts out. prompts: of all processes."""
    return {UNLEARNT: round(metrics[NO_DIFFERENCE] * prompts)} if NO_DIFFERENCE in metrics else {}


def worth_telling(counts: Mapping[str, int]) -> list[str]:
    """ "3 of 64 answers empty", in the order of importance; an environment's own counts last."""
    names = [*_TOLD, *(name for name in counts if name not in _TOLD and name not in _NOT_TOLD)]
    found = []
    for name in (name for name in names if counts.get(name)):
        text = _TOLD.get(name, name.replace("_", " "))
        if name.startswith(WITHOUT):
            text = f"answers for which the reward {name.removeprefix(WITHOUT)} had no score"
        whole = counts.get(text.partition(" ")[0]) if name in _TOLD or name.startswith(WITHOUT) else None
        found.append(f"{counts[name]:,} {'' if whole is None else f'of {whole:,} '}{text}")
    return found
