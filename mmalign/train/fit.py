"""If `train.micro_batch_size` is 0, find the number of examples per forward pass that fits the memory.

    fit = measure(job, batches)           # before the first update, on its batches
    fit.size, fit.why                     # 16, "a step's examples at once may take up to 13.8 GB, ..."; 0: all

It counts the bytes of tensors alive at one time in a forward and backward pass over the longest examples: first over
one example, then over four times as many, until the estimate is good enough. This count (`mmalign.train.live_bytes`) is
the same every time; resident memory depends on what ran before. Random state, running statistics and gradients do not
change. The run keeps the size in run.json, where a resume finds it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign.contract.batch import Batch
from mmalign.contract.objective import Phase
from mmalign.display import Say
from mmalign.train.build import Job
from mmalign.train.heldout import undisturbed
from mmalign.train.live_bytes import LiveBytes
from mmalign.train.run_folder import Run
from mmalign.train.shortage import is_shortage

KEY = "micro_batch_size"  # in run.json; null until the size is known
_SHARE = 0.5  # of a device's memory that a run uses by default
_CPU_LIMIT = 3_000_000_000  # bytes on a CPU, unless weights and optimiser state leave a pass less than _ROOM
_ROOM = 1_000_000_000  # bytes for a pass on a CPU: passes over single examples would be many times slower
_PROGRAM = 1_000_000_000  # resident on a CPU before the first step: Python, torch, transformers, data
# Resident memory grew by 0.8 (language models) to 1.3 times (convolutions) the count: kernels use memory of their own,
# and the allocator cannot reuse all freed blocks.
_SLACK = 1.5
_GROWTH, _ENOUGH = 4, 8  # each probe has 4 times as many examples, until one takes 1/8 of the budget
_CONTAINER = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Fit:
    """size: examples per forward pass and process; 0: a step's whole share at once."""

    size: int
    why: str


def take_up(job: Job, info: Mapping[str, Any]) -> None:
    """Take the size that an earlier session left in run.json; runs of versions without this search keep size 0."""
    if not job.measures_memory or info.get(KEY, {"size": 0}) is None:
        return
    job.micro_batch_size, job.measures_memory = info.get(KEY, {"size": 0})["size"], False


def settle_micro_batch(job: Job, batches: list[Batch], say: Say, run: Run | None = None) -> None:
    """Unless the size is known: find it, print it, keep it in the job and the run. All processes must call it. Raises
    UsageError where what the micro-batches share does not fit the memory."""
    for model in job.models.shared_work():
        model.require_room(_memory(job) - _standing(job))
    if not job.measures_memory:
        return
    fit = measure(job, batches)
    job.micro_batch_size, job.measures_memory = fit.size, False
    if run is not None and job.processes.is_main:
        run.write_info(**{KEY: asdict(fit)})
    say(f"{f'micro-batches of {fit.size}' if fit.size else 'one micro-batch'}: {fit.why}")
    num_frozen = job.models.train(freeze_batchnorm=job.freezes_batchnorm)
    if fit.size and num_frozen:
        say(job.batchnorm_note(num_frozen))


def measure(job: Job, batches: list[Batch]) -> Fit:
    """Find the size, the same on all processes; all must call it. batches: this process's prepared share per stream."""
    limit = _limit(job)
    budget = limit - _standing(job)
    with _unchanged(job):
        probes = [_probe(job, batch, budget) for batch in batches if len(batch)]
    everyone = [probe for own in job.processes.gather_objects(probes) for probe in own]
    sizes = [probe.size for probe in everyone if probe.size]
    unknown = next((probe.error for probe in everyone if probe.error), "")
    needed = (max((probe.whole for probe in everyone), default=0.0) + limit - budget) / 1e9
    most = f"the {limit / 1e9:.1f} GB of {job.device.type} memory that a run may use if train.micro_batch_size is 0"
    if sizes:
        return Fit(min(sizes), f"a step's examples at once may take up to {needed:.1f} GB, more than {most}")
    if unknown:
        return Fit(0, f"the memory of a pass cannot be counted ({unknown}); --set train.micro_batch_size=N uses less")
    return Fit(0, f"a step's examples at once take no more than {needed:.1f} GB, within {most}")


@dataclass(frozen=True)
class _Probe:
    """size: examples per pass, 0 if all fit at once. whole: bytes of a pass over all, with slack. error: why both are
    unknown."""

    size: int = 0
    whole: float = 0.0
    error: str = ""


def _probe(job: Job, batch: Batch, budget: float) -> _Probe:
    whole = -(-len(batch) // job.engine.passes)
    costs = _costs(batch)
    longest = sorted(range(len(batch)), key=lambda row: -costs[row])
    number = 1
    each = 0.0
    while True:
        number = min(number, whole)
        try:
            peak = _SLACK * _peak(job, batch.select(longest[:number]))
        except Exception as error:  # if counting is not the cause, the real pass raises it next
            if is_shortage(error):
                return _Probe(max(1, number // _GROWTH), max(each * whole, budget))
            return _Probe(error=f"{type(error).__name__}: {error}")
        each = peak / number  # an overestimate: some memory does not grow with the examples
        if each * whole <= budget:
            return _Probe(0, each * whole)
        if number == whole or peak * _ENOUGH >= budget:
            passes = -(-whole // max(1, int(budget / each)))
            return _Probe(-(-whole // min(passes, whole)), each * whole)
        number *= _GROWTH


def _costs(batch: Batch) -> list[int]:
    """Cost of each example. Splits by halves, since selecting a row walks over all rows."""
    if len(batch) <= 1:
        return [batch.cost()] * len(batch)
    middle = len(batch) // 2
    halves = (range(middle), range(middle, len(batch)))
    return [cost for half in halves for cost in _costs(batch.select(half))]


def _peak(job: Job, batch: Batch) -> int:
    """Bytes of a forward and backward pass that adds to existing gradients, as a second micro-batch does."""
    known: list[Tensor] = [tensor for module in job.models.modules() for tensor in _tensors(module)]
    for _, parameter in job.parameters:
        parameter.grad = torch.zeros_like(parameter)
        known.append(parameter.grad)
    peak, shared = 0, job.models.shared_work()
    try:
        for phase in job.engine.of(batch):
            for model in shared:  # does not grow with the examples, and is there in every pass
                model.begin_shared()
            with LiveBytes(known) as count:
                _forward_and_backward(job, phase, batch)
            for model in shared:
                model.finish_gradients()
            peak = max(peak, count.peak)
    finally:
        for _, parameter in job.parameters:
            parameter.grad = None
    return peak


def _forward_and_backward(job: Job, phase: Phase, batch: Batch) -> None:
    """For a coupled objective only the outputs: its loss covers all examples, whatever the size of a pass."""
    with job.engine.autocast():
        outputs = phase.forward(job.models, batch)
    terms = outputs if job.objective.coupled else phase.loss(outputs, batch)[0]
    sums = [term.float().sum() for term in terms.values() if term.requires_grad]
    if sums:
        torch.stack(sums).sum().backward()


@contextmanager
def _unchanged(job: Job) -> Iterator[None]:
    before = [buffer.clone() for buffer in job.models.buffers()]
    with undisturbed(job):
        job.models.train(freeze_batchnorm=True)
        try:
            yield
        finally:
            for buffer, value in zip(job.models.buffers(), before, strict=True):
                buffer.copy_(value)


def _limit(job: Job) -> float:
    """Bytes that the process may take on its device."""
    share = _SHARE * _memory(job)
    return share if job.device.type == "cuda" else min(share, max(_CPU_LIMIT, _standing(job) + _ROOM))


def _memory(job: Job) -> float:
    """Bytes of the process's device, or on a CPU its share of the machine's."""
    if job.device.type == "cuda":
        return float(torch.cuda.get_device_properties(job.device).total_memory)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _CONTAINER.is_file() and (text := _CONTAINER.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return memory / job.processes.world_size


def _standing(job: Job) -> float:
    """Bytes besides a pass's own: the program, weights, gradients, optimiser state, the moving average."""
    weights = {t.untyped_storage()._cdata: t.nbytes for module in job.models.modules() for t in _tensors(module)}
    trained = sum(parameter.nbytes for _, parameter in job.parameters)
    # The optimiser makes its state in its first step, which is still to come.
    copies = 1 + job.plan.optimizer.spec.state_bytes + (job.average is not None)
    return (_PROGRAM if job.device.type == "cpu" else 0) + sum(weights.values()) + copies * trained


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
