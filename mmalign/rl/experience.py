"""What the policy wrote and how it was scored, for people: a table in the run folder, and a few lines while it runs.

write_experience(batch, folder / "experience" / "step-00010.parquet", processor)
for line in show_experience(batch, processor): say(line)
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from mmalign.data.batch import Batch, Ragged
from mmalign.files import write_atomically
from mmalign.protocols import AnswersProcessor
from mmalign.rl.columns import answer_offsets

_SHOWN, _WIDTH = 3, 100


def write_experience(batch: Batch, path: Path, processor: AnswersProcessor) -> None:
    """One row an answer: key, prompt, answer, what is said of it (score, rewards, ...), and lists of what is said of
    its action tokens (log-probabilities, values, advantages, ...). A file that is there gives way."""
    sequences = batch["sequences"]
    owner, offsets = sequences.owner.tolist(), answer_offsets(sequences).tolist()
    prompts = [processor.decode(ids.cpu()) for ids in sequences.prompts.rows()]
    written = [text for texts in batch["written"] for text in texts]
    columns: dict[str, list[Any]] = {
        "key": [batch["key"][n] for n in owner],
        "prompt": [prompts[n] for n in owner],
        "answer": written,
        "ids": [ids.tolist() for ids in sequences.answers.rows()],
    }
    for name, column in batch.columns.items():
        if isinstance(column, Tensor) and column.shape[1:] == batch["score"].shape[1:]:
            columns[name] = column.flatten().tolist()
        elif isinstance(column, Ragged) and len(column.values) == offsets[-1]:
            flat = column.values.tolist()
            columns[name] = [flat[start:stop] for start, stop in itertools.pairwise(offsets)]
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda partial: pq.write_table(pa.table(columns), partial))


def show_experience(batch: Batch, processor: AnswersProcessor) -> Iterator[str]:
    """The first answers of the batch, each with its score and the end of its prompt."""
    sequences = batch["sequences"]
    prompts, owner = sequences.prompts.rows(), sequences.owner.tolist()
    written = [text for texts in batch["written"] for text in texts]
    yield f"{'score':>8}  prompt | answer"
    for n, text, score in list(zip(owner, written, batch["score"].flatten().tolist(), strict=True))[:_SHOWN]:
        before = " ".join(processor.decode(prompts[n].cpu()).split())[-_WIDTH // 3 :]
        after = " ".join(text.split())
        yield f"{score:8.3f}  {before} | {after[:_WIDTH]}{'…' if len(after) > _WIDTH else ''}"
