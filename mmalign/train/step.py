"""One optimiser step: split a prepared batch into updates, and compute gradients that do not depend on micro-batches.

for batches in updates((4, 2), seed, index, prepared, {"ptx": texts}):     # epochs, minibatches
    result = accumulate(engine, batches, micro_batch_size)

Objectives that do not couple examples accumulate micro-batch by micro-batch. Coupled ones (InfoNCE) use gradient
caching (Gao 2021): a first pass without graph collects every micro-batch's outputs, all processes compute the global
loss on them, and a second pass replays each micro-batch, with the random state of the first, to backpropagate its slice
of the gradient. Terms are sums divided by global counts: 1 x 8, 4 x 2 and two processes give the same gradients.
"""

import contextlib
import functools
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.contract.batch import Batch
from mmalign.contract.objective import Metrics, Objective, Outputs, Phase
from mmalign.device import release_freed_memory
from mmalign.errors import NonFiniteError, PluginError
from mmalign.hashing import stable_hash
from mmalign.train import rng
from mmalign.train.distributed import Processes
from mmalign.train.roles import Models

Counts = Mapping[str, float]


@dataclass
class StepResult:
    """loss: 0-D, the weighted total, equal on all processes. metrics: name -> (sum, count), local unless coupled."""

    loss: Tensor
    terms: dict[str, Tensor]
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    empty: bool = False


class StepModule(nn.Module):
    """The forward passes of an objective's phases as one module for torch.compile, which holds the trained roles."""

    def __init__(self, phases: Mapping[str, Sequence[Phase]], models: Models) -> None:
        super().__init__()
        self.phases = [phase for learning in phases.values() for phase in learning]
        self.roles = nn.ModuleDict(models.trained_modules())
        self.shared_work = models.shared_work()
        self._forward: Callable[[int, Batch], Mapping[str, Tensor]] = lambda index, batch: self.phases[index].forward(
            models, batch
        )

    def forward(self, index: int, batch: Batch) -> Mapping[str, Tensor]:
        """Run the phase at that index."""
        return self._forward(index, batch)


@dataclass(frozen=True)
class Engine:
    """What a step needs besides data: the wrapped forward, the processes and the precision."""

    objective: Objective
    phases: Mapping[str, tuple[Phase, ...]]  # by the stream that they learn from
    forward: StepModule  # compiled where asked for
    processes: Processes
    device: torch.device
    weights: Mapping[str, float]  # of the terms of the loss
    bf16: bool = False
    passes: int = 1  # trunk passes of all trained roles
    mixed: bool = False  # sampling and learning take turns

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def of(self, batch: Batch) -> tuple[Phase, ...]:
        """The phases that learn from a batch of its stream, one after the other."""
        return self.phases.get(batch.stream, ())

    def run(self, phase: Phase, batch: Batch) -> Mapping[str, Tensor]:
        with self.autocast():
            return checked_outputs(self.objective, self.forward(self.forward.phases.index(phase), batch), batch)

    def release(self) -> None:
        """If sampling and learning take turns, return freed memory to the system: their block sizes differ."""
        if self.mixed and self.device.type == "cpu":
            release_freed_memory()


def updates(
    passes: tuple[int, int], seed: int, index: int, batch: Batch, others: Mapping[str, Batch]
) -> Iterator[list[Batch]]:
    """Yield the batches of each update: the prepared batch or a minibatch of it, and a share of every other stream.

    passes: (epochs, minibatches per epoch). With several updates, batches have a column `update`: [N], the update's
    number. Minibatches are shuffled by (seed, step, epoch). Each process shuffles its own share, so the examples of a
    minibatch, unlike those of an epoch, depend on the number of processes.
    """
    epochs, number = passes
    total = epochs * number
    for update in range(total):
        epoch, minibatch = divmod(update, number)
        main = batch
        if number > 1:
            rows = list(range(len(batch)))
            random.Random(stable_hash("minibatches", seed, index, epoch)).shuffle(rows)
            main = batch.select(_share(rows, minibatch, number))
        if total > 1:
            main = main.with_columns(update=torch.full((len(main),), update, device=batch.device))
        yield [main, *(other.select(_share(range(len(other)), update, total)) for other in others.values())]


def _share(rows: Sequence[int], index: int, number: int) -> Sequence[int]:
    return rows[len(rows) * index // number : len(rows) * (index + 1) // number]


def accumulate(engine: Engine, batches: list[Batch], micro_batch_size: int = 0) -> StepResult:
    """Add one step's gradients to the parameters. `batches`: one of each stream, this process's share, prepared.

    micro_batch_size 0: choose the size so that all trained models together hold no more activations than one model
    would for the whole batch; phases free theirs one after the other.
    """
    results = []
    for batch in batches:
        micros = batch.split(micro_batch_size or -(-len(batch) // engine.passes))
        for phase in engine.of(batch):
            counts = _global_counts(engine, phase, micros)
            learn = _coupled if engine.objective.coupled else _separate
            results.append(learn(engine, phase, micros, counts))
    for model in engine.forward.shared_work:
        model.finish_gradients()
    engine.processes.sum_gradients(engine.forward.parameters())
    return functools.reduce(merge, results)


def total_loss(
    sums: Mapping[str, Tensor], counts: Counts, weights: Mapping[str, float], whose: str = "objective"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted total and the mean of each term; a term whose count is zero drops out. Raises PluginError."""
    if set(sums) != set(counts):
        raise PluginError(
            f"{whose}: loss returns the terms {sorted(sums)}, count names {sorted(counts)}",
            hint="Both must name the same terms.",
        )
    means = {name: total / counts[name] for name, total in sums.items() if counts.get(name)}
    weighted = [weights.get(name, 1.0) * mean for name, mean in means.items()]
    if weighted:
        return functools.reduce(operator.add, weighted), means
    return functools.reduce(operator.add, sums.values()) * 0.0, means


def check_limits(limits: Mapping[str, float], result: StepResult, where: str) -> None:
    """Raise NonFiniteError for a metric above its limit."""
    for name, limit in limits.items():
        total, count = result.metrics[name]
        if float(total) > limit * float(count):
            raise NonFiniteError(
                f"{name} {float(total / count):.4g} at {where} is above its limit of {limit:g}",
                hint="The update was not made. Try a lower --set train.learning_rate, or a higher limit: "
                f"--set objective.max_{name}=...",
            )


def _global_counts(engine: Engine, phase: Phase, micros: list[Batch]) -> Counts:
    local: dict[str, float] = {}
    for micro in micros:
        for name, value in checked_counts(engine.objective, phase.count(micro)).items():
            local[name] = local.get(name, 0.0) + float(value)
    names = sorted(local)
    summed = engine.processes.sum(torch.tensor([local[name] for name in names], dtype=torch.float64))
    return dict(zip(names, summed.tolist(), strict=True))


def _separate(engine: Engine, phase: Phase, micros: list[Batch], counts: Counts) -> StepResult:
    """One pass: forward, loss and backward of each micro-batch on its own."""
    objective = engine.objective
    result: StepResult | None = None
    for micro in micros:
        sums, metrics = checked_loss(objective, phase.loss(engine.run(phase, micro), micro))
        loss, terms = total_loss(sums, counts, engine.weights, name_of(engine.objective))
        loss.backward()
        if len(micros) > 1:
            engine.release()  # memory of its activations, which the next micro-batch can rarely reuse
        own = StepResult(loss.detach(), _detach(terms), _as_tensors(metrics, loss), not any(counts.values()))
        result = own if result is None else merge(result, own)
    assert result is not None
    result.loss = engine.processes.sum(result.loss)
    result.terms = {name: engine.processes.sum(value) for name, value in result.terms.items()}
    result.metrics = {
        name: (engine.processes.sum(total), engine.processes.sum(count))
        for name, (total, count) in result.metrics.items()
    }
    return result


def _coupled(engine: Engine, phase: Phase, micros: list[Batch], counts: Counts) -> StepResult:
    if len(micros) == 1 and engine.processes.world_size == 1:
        outputs = engine.run(phase, micros[0])
        result, loss = _global_loss(engine, phase, outputs, counts)
        loss.backward()
        return result
    return _two_pass(engine, phase, micros, counts)


def _two_pass(engine: Engine, phase: Phase, micros: list[Batch], counts: Counts) -> StepResult:
    # 1. Every micro-batch without a graph, remembering the random state it started from.
    states, cached = [], []
    with torch.no_grad():
        for micro in micros:
            states.append(rng.capture(engine.device))
            cached.append({name: value.detach() for name, value in engine.run(phase, micro).items()})
    # 2. The global loss, once, on leaves: the gradient with respect to every output of every process.
    joined = {name: torch.cat([outputs[name] for outputs in cached]) for name in cached[0]}
    leaves = {name: engine.processes.gather(value) for name, value in joined.items()}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point())
    result, loss = _global_loss(engine, phase, leaves, counts)
    loss.backward()
    # 3. Replay each micro-batch, and backpropagate its slice of this process's gradient.
    start = engine.processes.rank * sum(len(micro) for micro in micros)
    for micro, state in zip(micros, states, strict=True):
        rng.restore(state, engine.device)
        stop = start + len(micro)
        pairs = [
            (value, grad[start:stop])
            for name, value in engine.run(phase, micro).items()
            if value.requires_grad and (grad := leaves[name].grad) is not None
        ]
        torch.autograd.backward([value for value, _ in pairs], [grad for _, grad in pairs])
        start = stop
    return result


def _global_loss(
    engine: Engine, phase: Phase, outputs: Mapping[str, Tensor], counts: Counts
) -> tuple[StepResult, Tensor]:
    size = len(next(iter(outputs.values())))
    sums, metrics = checked_loss(engine.objective, phase.loss(outputs, Batch({}, size=size)))
    loss, terms = total_loss(sums, counts, engine.weights, name_of(engine.objective))
    return StepResult(loss.detach(), _detach(terms), _as_tensors(metrics, loss), not any(counts.values())), loss


def _detach(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in terms.items()}


def _as_tensors(metrics: Metrics, like: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    def scalar(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32).to(
            like.device
        )

    return {name: (scalar(total), scalar(count)) for name, (total, count) in metrics.items()}


def merge(a: StepResult, b: StepResult) -> StepResult:
    """The sums of two results."""
    zero = (torch.zeros_like(a.loss), torch.zeros_like(a.loss))
    metrics = {}
    for name in {**a.metrics, **b.metrics}:
        first, second = a.metrics.get(name, zero), b.metrics.get(name, zero)
        metrics[name] = (first[0] + second[0], first[1] + second[1])
    terms = {name: a.terms.get(name, 0.0) + b.terms.get(name, 0.0) for name in {**a.terms, **b.terms}}
    return StepResult(a.loss + b.loss, terms, metrics, a.empty and b.empty)  # type: ignore[arg-type]


# What an objective returned -------------------------------------------------------------------------------------------
# Only shapes and types are checked, so nothing waits for a GPU. Each raises PluginError.

_CONTRACT = "See docs/plugins.md; mmalign plugins check PACKAGE tries the whole contract."


def checked_outputs(objective: Objective, value: Any, batch: Batch) -> Outputs:
    """`forward`: a tensor by name, with a row for each of the batch's examples, or for each label of its sequences."""
    if not isinstance(value, Mapping) or not all(isinstance(item, Tensor) for item in value.values()):
        raise _fault(objective, "forward", 'a mapping of tensors, such as {"logps": [N]}', _kinds(value))
    rows = {len(batch)}
    if "sequences" in batch and not objective.coupled:
        sequences = batch["sequences"]
        rows |= {int(sequences.counts.sum()), *_labels(value, len(batch), sequences)}
    for name, tensor in value.items():
        if not tensor.ndim or len(tensor) not in rows:
            columns = ", ".join(sorted(batch.columns))
            raise _fault(
                objective,
                "forward",
                f"[{len(batch)}, ...], a row for each example of the batch (its columns: {columns})",
                f"{name!r} of shape {list(tensor.shape)}",
            )
    return value


def checked_loss(objective: Objective, value: Any) -> tuple[Mapping[str, Tensor], Metrics]:
    """`loss`: ({term: 0-D sum}, {metric: (sum, count)})."""
    wanted = "({term: sum over examples}, {metric: (sum, count)})"
    if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(part, Mapping) for part in value):
        raise _fault(objective, "loss", wanted, _kinds(value))
    for name, total in value[0].items():
        if not isinstance(total, Tensor) or total.ndim:
            raise _fault(objective, "loss", f"{wanted}, each sum a 0-D tensor", f"the term {name!r} as {_kind(total)}")
    for name, pair in value[1].items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise _fault(objective, "loss", wanted, f"the metric {name!r} as {_kind(pair)}")
    return value


def checked_counts(objective: Objective, value: Any) -> Mapping[str, float]:
    """`count`: a number by term."""
    if not isinstance(value, Mapping):
        raise _fault(objective, "count", "{term: number}, a denominator for each term of loss", _kinds(value))
    return value


def name_of(objective: Objective) -> str:
    """The plugin's class, written as in its spec's `target`."""
    return f"{type(objective).__module__}:{type(objective).__qualname__}"


def _labels(value: Mapping[str, Tensor], examples: int, sequences: Any) -> set[int]:
    """The number of labels, counted only if a tensor has another length than examples and answers."""
    known = {examples, int(sequences.counts.sum())}
    unknown = any(tensor.ndim and len(tensor) not in known for tensor in value.values())
    return {int(sequences.num_labels().sum())} if unknown else set()


def _fault(objective: Objective, method: str, wanted: str, got: str) -> PluginError:
    return PluginError(f"{name_of(objective)}: {method} must return {wanted}; it returned {got}", hint=_CONTRACT)


def _kinds(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name!r}: {_kind(item)}' for name, item in value.items())}}}"
    if isinstance(value, tuple):
        return f"({', '.join(_kind(item) for item in value)})"
    return _kind(value)


def _kind(value: Any) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
