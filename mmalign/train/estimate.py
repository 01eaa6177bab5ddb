"""Estimate a run's memory, disk and time before it starts. Builds the models and probes two steps.

    figures = estimate(plan, "cpu", say=print)
    figures.lines()

Weights, gradients and optimiser state are counted; activations are the rest of what the two steps add to the peak.
"""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch

from mmalign.display import Say
from mmalign.errors import DataError
from mmalign.train.build import Job, assemble
from mmalign.train.distributed import Processes
from mmalign.train.fit import settle_micro_batch
from mmalign.train.length import passes
from mmalign.train.optim import state_bytes
from mmalign.train.plan import Plan
from mmalign.train.preview import first_example, preview
from mmalign.train.progress import duration, peak_memory
from mmalign.train.sharing import RoleFigures, in_megabytes, role_figures
from mmalign.train.shortage import explained
from mmalign.train.step import accumulate

_PROBE_STEPS = 2


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds. length: steps and passes over the data, micro_batch: examples per forward pass, both in words.
    activation_bytes: growth of the peak during the probe, minus gradients and optimiser state. roles: each with its own
    memory, so that bytes add up to the total. first_example: its lines as training sees it."""

    parameters: int
    trainable: int
    examples: int
    heldout_examples: int
    length: str
    micro_batch: str
    weights_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    peak_bytes: int
    checkpoint_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    seconds_per_step: float
    seconds: float
    roles: tuple[RoleFigures, ...]
    first_example: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"first_example": [click.unstyle(line) for line in self.first_example]}

    def lines(self) -> list[str]:
        size = in_megabytes
        first, *others = (figures.line() for figures in self.roles)
        return [
            f"data      {self.examples:,} training and {self.heldout_examples:,} held-out examples",
            f"length    {self.length}",
            f"passes    {self.micro_batch}",
            f"model     {self.parameters:,} parameters, {self.trainable:,} of them trained",
            f"roles     {first}",
            *(f"          {line}" for line in others),
            f"memory    {size(self.peak_bytes)} at the peak: weights {size(self.weights_bytes)}, gradients "
            f"{size(self.gradient_bytes)}, optimiser {size(self.optimizer_bytes)}, activations about "
            f"{size(self.activation_bytes)}, the rest is the program",
            f"disk      {size(self.disk_bytes)} for checkpoints and the model (one checkpoint "
            f"{size(self.checkpoint_bytes)}), {size(self.disk_free_bytes)} free",
            f"time      {self.seconds_per_step:.2f} s a step, about {duration(self.seconds)} in all",
        ]


def estimate(plan: Plan, device: str, say: Say) -> Estimate:
    """Build the job, probe two steps on real data, change nothing on disk."""
    processes = Processes(device)
    with explained(plan, lambda: plan.train.micro_batch_size, "for the models"):
        job = assemble(plan, processes)
    for note in job.models.notes:
        say(note)
    shown = tuple(preview(job)) or tuple(first_example(job.data))
    say(f"probing {_PROBE_STEPS} steps")
    before = peak_memory(job.device)
    notes: list[str] = []
    with explained(plan, lambda: job.micro_batch, f"in the first {_PROBE_STEPS} steps"):
        seconds = _probe(job, notes)
    roles = tuple(role_figures(job.models, job.optimizer))
    trained = sum(parameter.nbytes for _, parameter in job.parameters)
    own_state = sum(tensor.nbytes for tensor in job.models.state().values())
    peak = peak_memory(job.device)
    kept = state_bytes(job.optimizer, [parameter for _, parameter in job.parameters])
    train = job.plan.train
    checkpoints = train.keep + 2 if train.save_every else 1  # the newest, the best, and the one being written
    processes.close()
    return Estimate(
        parameters=sum(p.numel() for module in job.models.modules() for p in module.parameters()),
        trainable=sum(p.numel() for _, p in job.parameters),
        examples=len(job.data),
        heldout_examples=job.num_heldout,
        micro_batch="; ".join(notes) or f"micro-batches of {job.micro_batch}, as train.micro_batch_size says",
        length=passes(train, len(job.data), job.feed.unit),
        weights_bytes=sum(figures.weights_bytes for figures in roles),
        gradient_bytes=trained,
        optimizer_bytes=kept,
        activation_bytes=max(0, peak - before - trained - kept),
        peak_bytes=peak,
        checkpoint_bytes=own_state + kept,
        disk_bytes=(own_state + kept) * checkpoints + own_state,
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        seconds_per_step=seconds,
        seconds=seconds * train.steps,
        roles=roles,
        first_example=shown,
    )


def _probe(job: Job, notes: list[str]) -> float:
    """Seconds of the second of two steps, which change the weights. notes: collects lines about the micro-batch."""
    job.models.train(freeze_batchnorm=job.freezes_batchnorm)
    stream, others = job.stream(start_step=0), job.other_streams(start_step=0)
    times = []
    try:
        began = time.perf_counter()
        for index, batch in stream:
            beside = {name: other.next_batch(name).to(job.device) for name, other in others.items()}
            for batches in job.updates(index, job.prepare(index, batch), beside):
                job.optimizer.zero_grad(set_to_none=True)
                settle_micro_batch(job, batches, notes.append)
                accumulate(job.engine, batches, job.micro_batch_size)
                job.optimizer.step()
            if job.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            times.append(now - began)  # includes the wait for data
            began = now
            if len(times) == _PROBE_STEPS:
                return times[-1]
    finally:
        for source in (stream, *others.values()):
            source.close()
    raise DataError("no batch could be made")
