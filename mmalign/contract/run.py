"""A run as the hooks of plugins see it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Run(Protocol):
    """The open folder of a run.

    folder: where it is. info: what run.json says: what was asked for, versions, status.
    """

    folder: Path
    info: dict[str, Any]

    def metrics(self) -> list[Mapping[str, Any]]:
        """The records of metrics.jsonl so far."""
        ...
