"""What a model's own run says of it, in `mmalign.json` beside the weights: how to measure it, and on which rows.

    record = TrainedBy(objective="dpo", comparison=Comparison(reference=True), reference="gpt-mini", ...)
    record.write(folder)
    read_record(folder)          # TrainedBy, or None for a model that no run of mmalign made

`mmalign evaluate` takes the run's measure and its held-out rows from here, so that it repeats the run's own figure.
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

    by: "log-probabilities", or "scores" of a reward model. reference: log p(y|x) - log p_ref(y|x), else log p(y|x).
    per_token: means over the tokens of y, else sums. tie: ranks that are no more than this apart are tied.
    """

    by: str = "log-probabilities"
    reference: bool = False
    per_token: bool = False
    tie: float = 0.0


@dataclass(frozen=True)
class TrainedBy:
    """The run that made a model.

    comparison: of an objective that compares answers. reference: the model that training started from, as a reference;
    empty where that had random weights. backbone: its options. dataset, kind, options: the data, by the name of its
    reader. fingerprint: of the rows trained on. heldout: how many rows were set aside, and `measured` how many of these
    the run measured, the first ones.
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
        """Raises KeyError and TypeError for anything else than what `write` wrote."""
        comparison = content["comparison"]
        values: dict[str, Any] = {**content, "comparison": comparison and Comparison(**comparison)}
        return cls(**values)


def read_record(folder: Path | None) -> TrainedBy | None:
    """The record in a model's folder; None where there is none. Raises CheckpointError where it cannot be read."""
    if folder is None or not (folder / FILE).is_file():
        return None
    try:
        return TrainedBy.from_dict(read_json(folder / FILE))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / FILE} cannot be read: {type(error).__name__}: {error}",
            hint="It says how the model's run measured it. Move it away to measure the model without.",
        ) from error
