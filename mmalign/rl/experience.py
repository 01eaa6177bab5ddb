"""Sampled answers and their scores, for people: a table in the run folder, and a few lines while it runs.

write_experience(batch, folder / "experience" / "step-00010.parquet", processor)
for line in show_experience(batch, processor): say(line)
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from mmalign.contract.batch import Batch, Ragged
from mmalign.data.images import describe
from mmalign.files import write_atomically
from mmalign.language.protocols import AnswersProcessor
from mmalign.rl.rollout_batch import answer_offsets

_SHOWN, _WIDTH, _NARROWEST = 3, 145, 40


def write_experience(batch: Batch, path: Path, processor: AnswersProcessor) -> None:
    """One row per answer: key, prompt, answer, its numbers (score, rewards, ..., null for None), lists over its action
    tokens (log-probabilities, values, advantages, ...), and its example's other columns as JSON in `columns`. Replaces
    an existing file."""
    sequences = batch["sequences"]
    owner, offsets = sequences.owner.tolist(), answer_offsets(sequences).tolist()
    prompts = _prompts(batch, processor)
    written = [text for texts in batch["written"] for text in texts]
    columns: dict[str, list[Any]] = {
        "key": [batch["key"][n] for n in owner],
        "prompt": [prompts[n] for n in owner],
        "answer": written,
        "ids": [ids.tolist() for ids in sequences.answers.rows()],
    }
    for name, column in batch.columns.items():
        if isinstance(column, Tensor) and column.shape[1:] == batch["score"].shape[1:]:
            columns[name] = [None if value != value else value for value in column.flatten().tolist()]
        elif isinstance(column, Ragged) and len(column.values) == offsets[-1]:
            flat = column.values.tolist()
            columns[name] = [flat[start:stop] for start, stop in itertools.pairwise(offsets)]
    if any(batch["columns"]):
        columns["columns"] = [json.dumps(dict(batch["columns"][n]), ensure_ascii=False) for n in owner]
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda partial: pq.write_table(pa.table(columns), partial))


def show_experience(batch: Batch, processor: AnswersProcessor, width: int = 0) -> Iterator[str]:
    """Some answers of the batch, to different prompts first, each with its score and the end of its prompt.

    width: characters per line; 0: the width of a log.
    """
    prompts, scores = _prompts(batch, processor, without_start=True), batch["score"].tolist()
    shown = [(k, n) for k in range(len(scores[0])) for n in range(len(prompts))][:_SHOWN] if scores else []
    room = max(_NARROWEST, (width or _WIDTH) - len(f"{0:8.3f}   | "))
    yield f"{'score':>8}  prompt | answer"
    for k, n in shown:
        before = " ".join(prompts[n].split())
        before = before if len(before) <= room // 4 else "…" + before[1 - room // 4 :]
        after, left = " ".join(batch["written"][n][k].split()) or "(empty)", room - len(before)
        yield f"{scores[n][k]:8.3f}  {before} | {after if len(after) <= left else after[: left - 1] + '…'}"


def _prompts(batch: Batch, processor: AnswersProcessor, *, without_start: bool = False) -> list[str]:
    """The prompts as the policy read them; of pictures, their names. without_start: leave out the model's own start
    token."""
    if batch["sequences"].pictures is not None:
        return [describe(prompt) for prompt in batch["prompt"]]
    texts = []
    for ids in batch["sequences"].prompts.rows():
        has_start = without_start and len(ids) > 0 and int(ids[0]) == processor.end_id
        texts.append(processor.decode(ids[int(has_start) :].cpu()))
    return texts
