"""A pipeline's folder: one folder for each stage, and pipeline.json, which records finished stages and the pipeline.

    with PipelineFolder.open(Path("runs/x"), pipeline, again=("ppo", "report")) as folder:
        folder.is_finished("sft"); folder.outputs(pipeline)
        folder.record("sft", status="finished", seconds=12.0)

When a stage runs again, its earlier outputs are moved to replaced/; nothing is deleted.
"""

import fcntl
import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from mmalign.errors import CheckpointError, UsageError
from mmalign.files import write_text
from mmalign.reading import read_json
from mmalign.train.run_folder import package_versions
from mmalign_pipeline.config import REPORT, Pipeline, Stage, flat, outputs_of

STATE = "pipeline.json"
SCHEMA = 1
_SHOWN = 20


class PipelineFolder:
    """state: the content of pipeline.json."""

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        self.path, self.state = path, state
        self._lock: Any = None

    @classmethod
    def open(cls, path: Path, pipeline: Pipeline, again: Collection[str] = ()) -> Self:
        """Create the folder, or continue in it. again: stages to run again, whose options may differ.

        Raises UsageError where the folder holds something else or another pipeline, or another process is using it.
        """
        folder = cls.look(path, pipeline, again) or cls._create(path, pipeline)
        folder._lock = (path / ".lock").open("a")
        try:
            fcntl.flock(folder._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            folder._lock.close()
            raise UsageError(f"{path} is in use by another process", hint="Wait for it, or choose --out.") from error
        new_report = folder.state["config"][REPORT] != pipeline.as_dict()[REPORT]
        folder.state["config"] = pipeline.as_dict()
        for name in {*again, REPORT} if new_report else again:
            folder._put_away(name)
        folder._write()
        return folder

    @classmethod
    def look(cls, path: Path, pipeline: Pipeline, again: Collection[str] = ()) -> "Self | None":
        """What is there, without changing it; None for nothing. Raises UsageError for another pipeline."""
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return None
        try:
            state = read_json(path / STATE)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is not empty and holds no pipeline", hint="Choose another --out.") from error
        drift = differences(state["config"], pipeline.as_dict(), again)
        if drift:
            shown = "\n".join(drift[:_SHOWN])
            first = next((name for name in pipeline.stages if any(f" stages.{name}." in line for line in drift)), "")
            anew = f"--from {first} runs that stage and later ones again. Or choose" if first else "Choose"
            raise UsageError(
                f"{path} holds another pipeline; these options differ from its own:\n{shown}",
                hint=f"{anew} another --out.",
            )
        folder = cls(path, state)
        if state["config"][REPORT] != pipeline.as_dict()[REPORT]:
            state["stages"].pop(REPORT, None)  # only the report differs: it is made again
        return folder

    @classmethod
    def _create(cls, path: Path, pipeline: Pipeline) -> Self:
        state = {
            "schema": SCHEMA,
            "name": pipeline.name,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": package_versions(),
            "config": pipeline.as_dict(),
            "stages": {},
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {path}: {error.strerror}", hint="Choose another --out.") from error
        folder = cls(path, state)
        folder._write()
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def of(self, stage: Stage) -> Path:
        """The stage's folder."""
        return self.path / stage.name

    def outputs(self, pipeline: Pipeline) -> dict[str, dict[str, str]]:
        """stage -> output -> absolute path, whether it exists or not."""
        return {name: outputs_of(stage, self.path / name) for name, stage in pipeline.stages.items()}

    def entry(self, name: str) -> dict[str, Any]:
        """The record of a stage."""
        return self.state["stages"].get(name, {})

    def status(self, name: str) -> str:
        """ "finished", "begun" or "to do"."""
        return self.entry(name).get("status", "begun" if (self.path / name).exists() else "to do")

    def is_finished(self, stage: Stage) -> bool:
        """Raises CheckpointError where the stage was finished and its output is missing."""
        if self.status(stage.name) != "finished":
            return False
        missing = [path for path in outputs_of(stage, self.of(stage)).values() if not Path(path).exists()]
        if missing:
            raise CheckpointError(
                f"stage {stage.name} was finished, but {missing[0]} is missing",
                hint=f"Put it back, or run the stage again: --from {stage.name}",
            )
        return True

    def record(self, name: str, **changes: Any) -> None:
        """Add to the record of a stage, and write it."""
        self.state["stages"].setdefault(name, {}).update(changes)
        self._write()

    def _put_away(self, name: str) -> None:
        self.state["stages"].pop(name, None)
        made = self.path / name
        if made.exists():
            kept = self.path / "replaced"
            kept.mkdir(exist_ok=True)
            os.rename(made, next(p for n in range(1, 10_000) if not (p := kept / f"{name}-{n}").exists()))

    def _write(self) -> None:
        write_text(self.path / STATE, json.dumps(self.state, indent=1, ensure_ascii=False) + "\n")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], again: Collection[str] = ()) -> list[str]:
    """Lines on every option that differs, except those of the report and of stages that run again."""
    free = tuple(f"stages.{name}" for name in again)

    def fixed(config: Mapping[str, Any]) -> dict[str, Any]:
        options = flat({key: value for key, value in config.items() if key != REPORT})
        return {
            key: value for key, value in options.items() if not any(key == f or key.startswith(f"{f}.") for f in free)
        }

    was, is_now, none = fixed(old), fixed(new), "nothing"
    keys = [*was, *(key for key in is_now if key not in was)]
    lines = [
        f"  {key}: {was.get(key, none)!r} -> {is_now.get(key, none)!r}"
        for key in keys
        if was.get(key, none) != is_now.get(key, none)
    ]
    order = [[name for name in config["stages"] if name not in again] for config in (old, new)]
    if not lines and order[0] != order[1]:
        lines = [f"  order of stages: {', '.join(order[0])} -> {', '.join(order[1])}"]
    return lines
