"""The trackers of a run: each record of metrics.jsonl and each checkpoint reaches each tracker once.

    trackers = Trackers(plan.trackers, catalog, run, say)
    trackers.catch_up()                    # send the records that an earlier session left in metrics.jsonl
    run.observers.append(trackers.record)

A killed run repeats the steps after its last checkpoint. trackers.json keeps the last step that each tracker got, by
kind of record, so that it gets none twice, unless the kill came between sending a record and noting it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.contract.specs import Entry
from mmalign.contract.tracker import Tracker
from mmalign.display import Say
from mmalign.reading import read_json
from mmalign.registry.catalog import Catalog
from mmalign.train.run_folder import Run

_FILE = "trackers.json"


class Trackers:
    """For the main process. A tracker that fails gets no more records; the run says so and continues."""

    def __init__(self, chosen: Sequence[tuple[Entry, Any]], catalog: Catalog, run: Run, say: Say) -> None:
        self._run, self._say = run, say
        self._path = run.folder / _FILE
        self._heard: dict[str, dict[str, int]] = read_json(self._path) if self._path.is_file() else {}
        self._trackers: dict[str, Tracker] = {}
        self._at = 0
        for entry, config in chosen:
            name = catalog.display_name(entry)
            target = catalog.load(entry)
            try:
                self._trackers[name] = target(config, run)
            except Exception as error:
                self._failed(name, error)

    def catch_up(self) -> None:
        """Send the records of metrics.jsonl that were not sent yet."""
        if self._trackers:
            for record in self._run.metrics():
                self.record(record)

    def record(self, record: Mapping[str, Any]) -> None:
        kind = next((kind for kind in ("final", "evaluation", "checkpoint", "summary") if record.get(kind)), "step")
        self._at = record["step"]
        for name, tracker in list(self._trackers.items()):
            if kind not in tracker.kinds:
                continue
            if kind == "summary":  # announced once; no resume reads it again
                self._tell(name, tracker, record)
                continue
            heard = self._heard.setdefault(name, {})
            if record["step"] > heard.get(kind, -1):
                self._tell(name, tracker, record)
                heard[kind] = record["step"]
                self._note()

    def close(self) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.close()
            except Exception as error:
                self._failed(name, error)

    def _tell(self, name: str, tracker: Tracker, record: Mapping[str, Any]) -> None:
        try:
            tracker.record(record)
        except Exception as error:
            self._trackers.pop(name)
            self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}".strip(": ")
        self._say(f"tracker {name} failed at step {self._at} and gets no more records: {why}")
        failures = {**self._run.info.get("tracker_failures", {}), name: f"step {self._at}: {why}"}
        self._run.write_info(tracker_failures=failures)

    def _note(self) -> None:
        """Write atomically, but without fsync: after a loss of power, records may repeat."""
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._heard), encoding="utf-8")
        os.replace(partial, self._path)
