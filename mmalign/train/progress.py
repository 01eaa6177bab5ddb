"""Report each step: log it to metrics.jsonl and the trackers, and display its metrics.

    progress = Progress(job, run, catalog, display)
    progress.step(index, results, norms, batch, {"learning": 1.2})

Long steps are rows of a table. Short ones update one line of a terminal; a log has a line of `name value` pairs every
`train.log_every` steps. Rates and the time left leave out measurements, shown samples and checkpoints.
"""

import functools
import resource
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmalign.contract.batch import Batch
from mmalign.contract.capabilities import Capability
from mmalign.contract.feed import LOGGED
from mmalign.display import Display, terminal_width
from mmalign.registry.catalog import Catalog
from mmalign.train.build import Job
from mmalign.train.optim import learning_rate
from mmalign.train.run_folder import Run
from mmalign.train.step import StepResult, merge
from mmalign.train.step_table import StepTable

_RECENT = 20  # steps, over which rates and the time left are averaged
_FIGURES = 3  # in the line that is redrawn
_UNTABLED = ("loss", "empty", "beta", "sampler_gap")


class Progress:
    """Progress of one session. The clock starts when it is made or restarted. seconds: the sum over its steps."""

    def __init__(self, job: Job, run: Run, catalog: Catalog, display: Display) -> None:
        self._job, self._run, self._catalog, self._display = job, run, catalog, display
        self._counts_tokens = Capability.TOKEN_LOGPS in job.plan.source.family.provides
        self._clock = time.perf_counter()
        self.seconds = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)  # seconds of each step
        self._table = StepTable(job.plan.train.steps, job.plan.objective.spec.watched, display)

    def restart(self) -> None:
        """Forget the time since the last step, sampling included: measurements and checkpoints belong to no step."""
        self._job.feed.take_seconds()
        self._display.stage("training")
        self._clock = time.perf_counter()

    def step(
        self,
        index: int,
        results: Sequence[StepResult],
        norms: Sequence[float],
        batch: Batch,
        seconds: Mapping[str, float],
    ) -> None:
        """Report a step. results, norms: of each update; batch: as prepared; seconds: by activity, where "preparing"
        includes the feed's."""
        job, step = self._job, index + 1
        now = time.perf_counter()
        whole, self._clock = now - self._clock, now  # includes the wait for data
        self.seconds += whole
        self._recent.append(whole)
        result = functools.reduce(merge, results)
        metrics = {name: float(total) / float(count) for name, (total, count) in result.metrics.items() if count}
        record = {
            "loss": float(result.loss) / len(results),
            **metrics,
            "gradient_norm": sum(norms) / len(norms),
            "learning_rate": learning_rate(job.plan.train, index),
        }
        counts = self._counts(batch, metrics)
        tokens = sum(job.processes.gather_objects(batch.cost())) if self._counts_tokens else 0
        rank = f"-{job.processes.rank}" if job.processes.world_size > 1 else ""
        sample_lines = job.feed.keep(batch, step, self._run.folder, rank)
        if not job.processes.is_main:
            return
        size = len(batch) * job.processes.world_size
        speed = {"examples_per_second": size / whole, "peak_memory_mb": peak_memory(job.device) / 1e6}
        if tokens:
            speed["tokens_per_second"] = tokens / whole
        parts = job.feed.take_seconds()
        if parts:  # the rest of preparing: the critic and frozen roles
            parts |= {**seconds, "preparing": seconds["preparing"] - sum(parts.values())}
        times = {f"seconds_{name}": value for name, value in parts.items()}
        counted = {f"{LOGGED}{name}": number for name, number in counts.items()}
        self._run.log({"step": step, **record, **speed, **times, **counted})
        self._tell(step, {name: record[name] for name in ("loss", *metrics)}, parts, size)
        for line in sample_lines:
            self._display(f"  {line}")
        if sample_lines:
            self.restart()

    def _tell(self, step: int, metrics: Mapping[str, float], parts: Mapping[str, float], size: int) -> None:
        """Display the step. parts: seconds by activity; size: examples of all processes."""
        train, whole = self._job.plan.train, self._recent[-1]
        mean = sum(self._recent) / len(self._recent)
        in_table = self._job.feed.long_steps
        left = duration((train.steps - step) * mean)
        pace = f"{duration(mean)} a step" if in_table else f"{_rate(size / mean)} examples/s"
        figures = {name: f"{metrics[name]:.3g}" for name in self._watched(metrics)[:_FIGURES]}
        self._display.training(step, train.steps, figures, pace, f"{left} left")
        told = step % train.log_every == 0 or step in (1, train.steps)
        if in_table and told:
            columns = {name: value for name, value in metrics.items() if name not in _UNTABLED}
            shares = {name: value / whole for name, value in parts.items()}
            self._table.row(step, columns, shares, whole, left, terminal_width())
        elif step == train.steps or (told and not self._display.live):
            still = f"  {left} left" if step < train.steps else ""
            self._display(f"step {step}/{train.steps}  {describe(metrics)}  {pace}{still}")

    def _watched(self, metrics: Mapping[str, float]) -> list[str]:
        """Names of a step's metrics by importance: the loss if its value means something, those that the objective
        watches, the one that picks its best checkpoint, the others, and those of updates only."""
        spec = self._job.plan.objective.spec
        loss = ("loss",) if self._job.feed.comparable_loss else ()
        names = dict.fromkeys((*loss, *spec.watched, spec.best_by[0], *metrics))
        order = sorted(names, key=lambda name: name in spec.of_updates)
        return [name for name in order if name in metrics and (name != "loss" or loss)]

    def _counts(self, batch: Batch, metrics: Mapping[str, float]) -> dict[str, int]:
        """Counts over all processes."""
        counts: Counter[str] = Counter()
        for own in self._job.processes.gather_objects(self._job.feed.counts(batch)):
            counts.update(own)
        return self._job.feed.count_all(counts, metrics)


def describe(values: Mapping[str, Any]) -> str:
    """ "loss 2.31  accuracy 0.412", four digits each."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _rate(number: float) -> str:
    """Whole from 10 on: 0.83, 3.4, 128."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """ "95 s", "12 min", "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak allocation on CUDA, else the process's peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
