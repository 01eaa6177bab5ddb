"""TensorBoard's event files in the run's folder: `tensorboard --logdir runs`."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch.utils.tensorboard import SummaryWriter

from mmalign.contract.run import Run
from mmalign.contract.tracker import Tracker, TrackerConfig


class TensorBoard(Tracker):
    class Config(TrackerConfig):
        folder: str = Field("tensorboard", description="of the event files, in the run's folder")
        flush_seconds: int = Field(30, ge=1, description="seconds between writes to the disk")

    def __init__(self, config: "TensorBoard.Config", run: Run) -> None:
        super().__init__(config, run)
        self._writer = SummaryWriter(str(run.folder / config.folder), flush_secs=config.flush_seconds)

    def record(self, record: Mapping[str, Any]) -> None:
        step = record["step"]
        for name, value in {**record, **record.get("evaluation", {})}.items():
            if isinstance(value, int | float) and name not in ("step", "final"):
                self._writer.add_scalar(name, value, step)
        for number, sample in enumerate(record.get("samples", ())):
            self._writer.add_text(f"sample {number}", "\n\n".join(map(str, sample)), step)

    def close(self) -> None:
        self._writer.close()
