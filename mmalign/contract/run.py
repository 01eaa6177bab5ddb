"""A run as plugins see it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Run(Protocol):
    """The open folder of a run.

    info: the content of run.json: options, versions, status.
    """

    folder: Path
    info: dict[str, Any]

    def metrics(self) -> list[Mapping[str, Any]]:
        """The records of metrics.jsonl so far."""
        ...
