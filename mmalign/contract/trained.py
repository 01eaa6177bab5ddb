"""The record of the run that made a model, `mmalign.json` beside the weights: how to measure it, and on which rows.

    record = TrainedBy(objective="dpo", comparison=Comparison(reference=True), reference="gpt-mini", ...)
    record.write(folder)
    read_record(folder)          # TrainedBy, or None for a model that no run of mmalign made

`mmalign evaluate` measures with the comparison and the held-out rows recorded here, so it repeats the run's own figure.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from mmalign.errors import CheckpointError
from mmalign.reading import read_json

FILE = "mmalign.json"
SCHEMA = 1


@dataclass(frozen=True)
class Comparison:
    """How an objective compares two answers y to a prompt x.

    by: "log-probabilities", or "scores" of a reward model. reference: compare log p(y|x) - log p_ref(y|x), else
    log p(y|x). per_token: mean over the tokens of y, else sum. tie: ranks that differ by no more than this are tied.
    """

    by: str = "log-probabilities"
    reference: bool = False
    per_token: bool = False
    tie: float = 0.0


@dataclass(frozen=True)
class TrainedBy:
    """The run that made a model.

    comparison: None if the objective does not compare answers. reference: the reference of the model that training
    started from; empty for random weights. backbone: its options. dataset: the name of the reader, with the `kind` of
    its examples and its `options`. fingerprint: of the training rows. heldout: number of rows set aside; the run
    measured the first `measured` of them.
    """

    objective: str
    comparison: Comparison | None
    reference: str
    backbone: Mapping[str, Any]
    dataset: str
    kind: str
    options: Mapping[str, Any]
    fingerprint: str
    heldout: int
    measured: int
    schema: int = field(default=SCHEMA)

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Raises KeyError or TypeError for content that `write` did not write."""
        comparison = content["comparison"]
        values: dict[str, Any] = {**content, "comparison": comparison and Comparison(**comparison)}
        return cls(**values)


def read_record(folder: Path | None) -> TrainedBy | None:
    """The record in a model's folder, or None. Raises CheckpointError for a record that cannot be read."""
    if folder is None or not (folder / FILE).is_file():
        return None
    try:
        return TrainedBy.from_dict(read_json(folder / FILE))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / FILE} cannot be read: {type(error).__name__}: {error}",
            hint="The file says how the model's run measured it. To measure the model without, move the file away.",
        ) from error
