"""The model that a reference resolves to; a backbone's `load` takes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.contract.specs import Entry, Family


@dataclass(frozen=True)
class Source:
    """A resolved reference.

    reference: as typed. name: the reference without its prefix. folder: of a local model. config: the parsed config.
    family: the family that matches it. file: of a model in one file (GGUF) in `folder`; its config is
    {"gguf_architecture": "llama"}. size: of a shape that starts from random weights: a key of the spec's `sizes`, whose
    value is the config. adapters: peft folders to merge into the model, in this order. run: the run's folder, if the
    reference names a run.
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
        """A sentence that says where the model is, if the reference names a run; else ""."""
        return "" if self.run is None else f"{self.run} is a run; its model is {self.path}"

    @property
    def path(self) -> Path | None:
        """The local adapter, file or folder that the reference names; None for a model that is not local."""
        return self.adapters[-1] if self.adapters else self.file or self.folder

    @property
    def places(self) -> tuple[Path, ...]:
        """All local sources of the weights: the file or folder, and the adapters."""
        base = self.file or self.folder
        return (*([base] if base else []), *self.adapters)

    @property
    def origin(self) -> str:
        """The absolute path of the weights, or the model's name on the hub."""
        return str(self.path.absolute()) if self.path else self.name
