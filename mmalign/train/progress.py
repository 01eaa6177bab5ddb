"""What a run says of each step: a line of metrics.jsonl, plugins told, and lines for whoever watches.

    progress = Progress(job, run, catalog, say)
    progress.step(index, results, norms, batch, {"learning": 1.2})

An online objective's steps are rows of a table, in as many lines as a terminal needs; others are a line of `name value`
pairs every `train.log_every` steps.
"""

import functools
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch

from mmalign.capabilities import Capability
from mmalign.catalog import Catalog
from mmalign.data.batch import Batch
from mmalign.protocols import AnswersProcessor
from mmalign.rl.experience import show_experience, write_experience
from mmalign.train.counts import LOGGED, answer_counts, unlearnt_prompts
from mmalign.train.job import Job
from mmalign.train.optim import learning_rate
from mmalign.train.rundir import Run
from mmalign.train.step import StepResult, merge

Say = Callable[[str], None]
_HEADER_EVERY = 20  # rows
_UNTABLED = ("loss", "empty", "beta", "sampler_gap")


class Progress:
    """Of one sitting; the clock runs from when it is made, or `restart`ed, to the first step."""

    def __init__(self, job: Job, run: Run, catalog: Catalog, say: Say) -> None:
        self._job, self._run, self._catalog, self._say = job, run, catalog, say
        self._counts_tokens = Capability.TOKEN_LOGPS in job.plan.source.family.provides
        self._clock = time.perf_counter()
        self._rows = self._steps = 0
        self._spent = 0.0  # seconds in `_steps`
        self._header: tuple[str, ...] = ()

    def restart(self) -> None:
        """Forget the time since the last step, and what was sampled in it: a measurement is no part of a step."""
        if self._job.sampler is not None:
            self._job.sampler.take_seconds()
        self._clock = time.perf_counter()

    def step(
        self,
        index: int,
        results: Sequence[StepResult],
        norms: Sequence[float],
        batch: Batch,
        seconds: Mapping[str, float],
    ) -> None:
        """results, norms: of each update of the step; batch: as prepared; seconds: what went into what, of which
        "preparing" holds the sampler's."""
        job, step = self._job, index + 1
        now = time.perf_counter()
        whole, self._clock = now - self._clock, now  # from step to step: waiting for data included
        self._spent, self._steps = self._spent + whole, self._steps + 1
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
        every = job.plan.rollout.keep_experience if job.sampler is not None else 0
        shows = bool(every) and (step % every == 0 or step == 1)
        processor = cast(AnswersProcessor, job.encoder.processor)
        if shows:
            name = f"step-{step:05d}{f'-{job.processes.rank}' if job.processes.world_size > 1 else ''}.parquet"
            write_experience(batch, self._run.folder / "experience" / name, processor)
        if not job.processes.is_main:
            return
        size = len(batch) * job.processes.world_size
        speed = {"examples_per_second": size / whole, "peak_memory_mb": peak_memory(job.device) / 1e6}
        if tokens:
            speed["tokens_per_second"] = tokens / whole
        parts = {} if job.sampler is None else job.sampler.take_seconds()
        if parts:  # what the critic and frozen roles say is neither rollout nor scoring
            parts |= {**seconds, "preparing": seconds["preparing"] - sum(parts.values())}
        times = {f"seconds_{name}": value for name, value in parts.items()}
        happened = {f"{LOGGED}{name}": number for name, number in counts.items()}
        self._run.log({"step": step, **record, **speed, **times, **happened})
        for warning in self._catalog.host.notify("step_finished", run=self._run, step=step, metrics=record):
            self._say(warning)
        train = job.plan.train
        if step % train.log_every == 0 or step in (1, train.steps):
            left = duration((train.steps - step) * self._spent / self._steps)
            if job.sampler is not None:
                self._row(step, {name: record[name] for name in metrics}, parts, whole, left)
            else:
                numbers = describe({name: record[name] for name in ("loss", *metrics)})
                pace = f"{speed['examples_per_second']:.0f} examples/s  {left} left"
                self._say(f"step {step}/{train.steps}  {numbers}  {pace}")
        if shows:
            for line in show_experience(batch, processor, max(0, terminal_width() - 2)):
                self._say(f"  {line}")

    def _counts(self, batch: Batch, metrics: Mapping[str, float]) -> dict[str, int]:
        """Of all processes, of an objective that samples."""
        job = self._job
        if job.sampler is None:
            return {}
        own = answer_counts(batch)
        if job.plan.rollout.environment:  # whose limit of turns leaves answers without an end, too
            own |= job.sampler.counts | {"answers_cut": job.sampler.counts["stopped_length"]}
        found: Counter[str] = Counter()
        for part in job.processes.gather_objects(own):
            found.update(part)
        return dict(found) | unlearnt_prompts(metrics, found["prompts"])

    def _row(
        self, step: int, metrics: Mapping[str, float], parts: Mapping[str, float], whole: float, left: str
    ) -> None:
        """One row of the table; the header again every so many, and where a column comes or goes."""
        cells = {name.replace("_", " "): f"{value:.3g}" for name, value in metrics.items() if name not in _UNTABLED}
        cells |= {name: f"{value / whole:.0%}" for name, value in parts.items()}
        cells |= {"s": f"{whole:.1f}", "left": left}
        widths = [max(7, len(name)) for name in cells]
        total = f"step/{self._job.plan.train.steps}"
        if self._rows % _HEADER_EVERY == 0 or tuple(cells) != self._header:
            self._rows, self._header = 0, tuple(cells)
            self._lines(total, len(total), [f"{name:>{width}}" for name, width in zip(cells, widths, strict=True)])
        values = [f"{value:>{width}}" for value, width in zip(cells.values(), widths, strict=True)]
        self._lines(str(step), len(total), values)
        self._rows += 1

    def _lines(self, first: str, indent: int, cells: Sequence[str]) -> None:
        """Cells beside each other, and under each other where a terminal is too narrow for them."""
        width, line = terminal_width(), f"{first:>{indent}}"
        for cell in cells:
            if width and len(line) + 2 + len(cell) > width:
                self._say(line)
                line = " " * indent
            line = f"{line}  {cell}"
        self._say(line)


def describe(values: Mapping[str, Any]) -> str:
    """ "loss 2.31  accuracy 0.412", four digits each."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def duration(seconds: float) -> str:
    """ "95 s", "12 min", "3.4 h": roughly, for what is still to come."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def terminal_width() -> int:
    """Columns of the terminal that a run talks to; 0 where that is a file or a pipe, in which no line is too long."""
    return os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak allocation on CUDA, else the process's peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
