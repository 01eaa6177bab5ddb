"""What a tracker's plugin provides: an observer that gets every record of a run, on the main process.

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
    """Made when a run starts or resumes; `run.info` holds the run's options and versions.

    An exception never ends the run: the tracker gets no more records, and the run says so.
    """

    Config: ClassVar[type[BaseModel]]
    kinds: ClassVar[frozenset[str]] = frozenset({"step", "evaluation", "checkpoint", "final", "summary"})
    """The kinds of record that it gets."""

    def __init__(self, config: Any, run: "Run") -> None:
        self.config, self.run = config, run

    @abstractmethod
    def record(self, record: Mapping[str, Any]) -> None:
        """One record of the run, each once however often the run is killed and resumed. Every record has `step`.

        A training step's record is the line of metrics.jsonl: loss, metrics, learning_rate, seconds, speed. An
        evaluation's has `evaluation` (name -> figure), and `samples` and `baselines` where there are some. A
        checkpoint's has `checkpoint`, its folder. The last evaluation's has `final`. Once the model is saved, a
        last record has `summary`, which run.json keeps too; it comes again where a finished run is trained on.
        """

    def close(self) -> None:
        """The run ended, or stopped to be resumed."""
        return None
