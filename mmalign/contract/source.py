"""A model that a reference resolved to: what a backbone's `load` gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.contract.specs import Entry, Family


@dataclass(frozen=True)
class Source:
    """A resolved reference.

    reference: as typed. name: what follows the prefix. folder: set when local. config: parsed. family: what matched.
    file: set when the model is one file (GGUF) in that folder; its config is {"gguf_architecture": "llama"}.
    size: set when it is a shape that starts from random weights; one of its spec's `sizes`, which is the config.
    adapters: folders of peft's, to be merged into that model one after the other.
    run: set when the reference is a run's folder, whose model it is.
    """

    reference: str
    name: str
    folder: Path | None
    config: Mapping[str, Any]
    entry: Entry
    family: Family
    file: Path | None = None
    size: str = ""
    adapters: tuple[Path, ...] = ()
    run: Path | None = None

    @property
    def note(self) -> str:
        """What to say where the model is another place than the reference; else an empty text."""
        return "" if self.run is None else f"{self.run} is a run; its model is {self.path}"

    @property
    def path(self) -> Path | None:
        """What the reference leads to on this machine: the adapter, file or folder."""
        return self.adapters[-1] if self.adapters else self.file or self.folder

    @property
    def places(self) -> tuple[Path, ...]:
        """All that the weights come from on this machine: the file or folder, and adapters."""
        base = self.file or self.folder
        return (*([base] if base else []), *self.adapters)

    @property
    def origin(self) -> str:
        """Where the weights are: an absolute path, or a name on the hub."""
        return str(self.path.absolute()) if self.path else self.name
