"""The interface of trackers: observers that get every record of a run, on the main process.

class Lines(Tracker):
    class Config(TrackerConfig): path: str = Field("records.txt", description="file in the run's folder")
    def record(self, record): ...
    def close(self): ...
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from mmalign.contract.run import Run


class TrackerConfig(BaseModel):
    """The options of a tracker; every field is described, with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tracker(ABC):
    """Created when a run starts or resumes; `run.info` holds the run's options and versions.

    An exception never ends the run: the run prints a warning, and the tracker gets no more records.
    """

    Config: ClassVar[type[BaseModel]]
    kinds: ClassVar[frozenset[str]] = frozenset({"step", "evaluation", "checkpoint", "final", "summary"})
    """The kinds of record that it gets."""

    def __init__(self, config: Any, run: "Run") -> None:
        self.config, self.run = config, run

    @abstractmethod
    def record(self, record: Mapping[str, Any]) -> None:
        """Take one record of the run. Each comes once, however often the run is killed and resumed. All have `step`.

        The record of a training step is its line of metrics.jsonl: loss, metrics, learning_rate, seconds, speed. The
        record of an evaluation has `evaluation` (name -> figure) and, if there are any, `samples` and `baselines`; that
        of the last evaluation also has `final`. The record of a checkpoint has `checkpoint`, its folder. Once the model
        is saved, a last record has `summary`, as run.json does; it comes again if a finished run is trained further.
        """

    def close(self) -> None:
        """The run ended, or stopped and can be resumed."""
        return None
