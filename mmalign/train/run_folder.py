"""A run's folder: its options, metrics, checkpoints and model. Never overwritten; one process writes it at a time.

run.json  config.yaml  metrics.jsonl  skipped.jsonl  checkpoints/  model/  curve.png  report.html  README.md
"""

import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mmalign.errors import UsageError
from mmalign.files import write_text
from mmalign.printable import with_nan, without_nan
from mmalign.reading import check_regular, parse_json, read_json, read_text
from mmalign.version import __version__

SCHEMA = 1
_BEFORE_A_STEP = {"run.json", "config.yaml", "metrics.jsonl", "checkpoints", "skipped.jsonl"}  # and caches
_FIGURES = ("evaluation", "parts", "baselines")  # keys of a record's held-out measurements


class Run:
    """The open folder of a run. Make one with `create` or `reopen`; `close` releases its lock."""

    def __init__(self, folder: Path, info: dict[str, Any], *, lock: bool = True) -> None:
        self.folder = folder
        self.info = info
        self.took_over = False
        self.observers: list[Callable[[Mapping[str, Any]], None]] = []
        """Called with each record that `log` appends, and with each checkpoint."""
        self._lock = (folder / ".lock").open("a")
        if not lock:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UsageError(f"{folder} is in use by another process", hint="Wait for it, or choose --out.") from error

    @classmethod
    def create(cls, folder: Path, config_yaml: str, info: Mapping[str, Any]) -> "Run":
        """Start a run in a new or empty folder, or in place of a run that never made a step (`took_over` is then True).

        Raises UsageError if anything else is there.
        """
        took_over = False
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            resumable = folder.is_dir() and (folder / "run.json").is_file()
            if not (resumable and _without_step(folder)):
                hint = f"Go on with it: mmalign train --resume {folder}. Or choose another --out."
                raise UsageError(f"{folder} is not empty", hint=hint if resumable else "Choose another --out.")
            cls.reopen(folder).remove()  # raises UsageError if another process uses it
            took_over = True
        partial = folder.with_name(f".{folder.name}.partial")
        content = {"schema": SCHEMA, **_provenance(), **info, "status": "running"}
        try:
            # Written under another name, then renamed: a folder of the final name always holds a resumable run.
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            (partial / "config.yaml").write_text(config_yaml, encoding="utf-8")
            (partial / "run.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            os.rename(partial, folder)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error}", hint="Choose another --out.") from error
        run = cls(folder, content)
        run.took_over = took_over
        return run

    @classmethod
    def reopen(cls, folder: Path) -> "Run":
        """Open an existing run; raises UsageError if the folder holds none."""
        path = folder / "run.json"
        try:
            info = _read_info(path)
            check_regular(folder / "config.yaml")
        except (OSError, ValueError) as error:
            raise _no_run(folder, error) from error
        return cls(folder, info)

    @classmethod
    def observe(cls, folder: Path) -> "Run":
        """Open a run for the processes that do not write it."""
        try:
            return cls(folder, _read_info(folder / "run.json"), lock=False)
        except (OSError, ValueError) as error:
            raise _no_run(folder, error) from error

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def write_info(self, **changes: Any) -> None:
        """Update run.json."""
        self.info.update(changes)
        write_text(self.folder / "run.json", json.dumps(without_nan(self.info), indent=2) + "\n")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; a value that is not finite becomes null, at any depth."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(without_nan(record)) + "\n")
        self.announce(record)

    def announce(self, record: Mapping[str, Any]) -> None:
        """Hand a record to the run's observers."""
        for observer in self.observers:
            observer(record)

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl, without one cut short by a kill. A null in a measurement is NaN again."""
        return _records(self.folder / "metrics.jsonl")

    def rewind(self, step: int) -> None:
        """Drop the lines of metrics.jsonl after `step`, and final ones: they will be written again."""
        kept = [record for record in self.metrics() if record["step"] <= step and not record.get("final")]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(without_nan(record)) + "\n" for record in kept))

    def write_skipped(self, skipped: list[tuple[str, str]]) -> None:
        """Write skipped.jsonl: a {key, reason} for each sample that could not be used."""
        lines = (json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in skipped)
        write_text(self.folder / "skipped.jsonl", "".join(lines))

    def way_on(self, step: int) -> str:
        """How to continue from the state before a failed step."""
        return (
            f"The state before step {step} is saved. Fix the cause, then: mmalign train --resume {self.folder}\n"
            "Add --allow-change if you changed a file that the run names, such as a reward's."
        )

    def way_back(self, saved: int) -> str:
        """How to continue when the weights themselves are the cause. saved: step of the last checkpoint, or -1."""
        if saved < 0:
            return "This state is not saved, and there is no checkpoint: start again (with --set train.save_every=1)."
        return (
            f"This state is not saved; the last checkpoint is of step {saved}. To continue there with other options:\n"
            f"mmalign train --resume {self.folder} --allow-change --set KEY=VALUE"
        )

    def is_bare(self) -> bool:
        """Whether the folder holds only what `create` wrote."""
        return {path.name for path in self.folder.iterdir()} <= {"run.json", "config.yaml", ".lock"}

    def remove(self) -> None:
        """Delete the folder and release its lock."""
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        self._lock.close()


def _without_step(folder: Path) -> bool:
    """Whether a run made no step: its folder has no checkpoint, no step in its records and no foreign file."""
    names = {path.name for path in folder.iterdir()}
    foreign = {name for name in names - _BEFORE_A_STEP if not name.startswith(("frozen-", "."))}
    made = {path.name for path in (folder / "checkpoints").glob("*") if not path.name.startswith(".")}
    if foreign or not made <= {"step-000000"}:  # which a failing first step leaves
        return False
    return all(record["step"] == 0 for record in _records(folder / "metrics.jsonl"))


def _no_run(folder: Path, error: Exception) -> UsageError:
    return UsageError(f"{folder} holds no run: {error}", hint="Give a folder that mmalign train made.")


def _read_info(path: Path) -> dict[str, Any]:
    """run.json, checked for the keys of every run; raises OSError, ValueError."""
    info = read_json(path)
    if not isinstance(info, dict):
        raise ValueError(f"{path.name} is {type(info).__name__}, not an object")
    kinds = {"status": str, "device": str, "num_threads": int, "versions": dict}
    wrong = next((name for name, kind in kinds.items() if not isinstance(info.get(name), kind)), None)
    if wrong or "starting_weights" not in info:
        raise ValueError(f"{path.name} has no usable {wrong or 'starting_weights'}")
    return info


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in read_text(path).splitlines() if path.is_file() else ():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        records.append({name: with_nan(value) if name in _FIGURES else value for name, value in record.items()})
    return records


def default_folder(objective: str, root: Path = Path("runs")) -> Path:
    """runs/<objective>-<date>-<time>, with a number appended if that exists."""
    base = root / f"{objective}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(path for n in range(1, 10_000) if not (path := base if n == 1 else Path(f"{base}-{n}")).exists())


def _provenance() -> dict[str, Any]:
    return {
        "argv": sys.argv[1:],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": package_versions(),
        "machine": {"system": platform.platform(), "cpu_count": os.cpu_count()},
    }


def package_versions() -> dict[str, str]:
    """Versions of mmalign, Python and the libraries whose results may differ between versions."""
    versions = {"mmalign": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "open_clip_torch", "transformers", "accelerate", "numpy", "pillow"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
