"""Conformance of objectives, through the real training engine, on every tiny backbone that they are compatible with."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mmalign.specs import Entry
from mmalign.testing.bench import Check, Workbench

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.data.batch import Batch

EXACT = 1e-10  # float64, another summation order
SINGLE = 1e-5  # the same where a model computes in float32 whatever its weights are (Llama's norms)
OVERFIT_STEPS = 50


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [
        Check(f"objective {entry.spec.name} on {reference}: {title}", partial(_run, function, entry, reference, bench))
        for reference in bench.model_names
        for title, function in _CHECKS.items()
    ]


@dataclass
class Trainer:
    """An objective on a fresh model with the engine that trains it, dropout off, and one batch of each stream."""

    entry: Entry
    objective: Any
    models: Any
    engine: Any
    batches: "list[Batch]"

    def prepare(self, batches: "list[Batch]", micro_batch_size: int = 0) -> "list[Batch]":
        import torch

        from mmalign.objective import Context

        ctx = Context(0, 0, self.engine.processes.sum, micro_batch_size or len(batches[0]))
        with torch.no_grad():
            return [self.objective.prepare(self.models, self._with_frozen(batch), ctx) for batch in batches]

    def _with_frozen(self, batch: "Batch") -> "Batch":
        return batch.with_columns(**self.objective.frozen(self.models, batch))

    @cached_property
    def limit(self) -> float:
        """How much two ways of computing the same may differ: less than that is rounding."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        single = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor) and result.dtype == torch.float32 and result.numel() > 1:
                    single.append(func)
                return result

        with Watch(), torch.no_grad():
            for batch in self.prepare(self.batches):
                self.objective.forward(self.models, batch)
        return SINGLE if single else EXACT

    def gradients(self, batches: "list[Batch]", micro_batch_size: int = 0) -> "tuple[Any, dict[str, Tensor | None]]":
        """One step's result and gradients, from zero."""

        from mmalign.train.step import accumulate

        for module in self.models.modules():
            module.zero_grad(set_to_none=True)
        result = accumulate(self.engine, self.prepare(batches, micro_batch_size), micro_batch_size)
        trained = self.models.trainable()
        known = {id(p) for _, p in trained}
        every = ((f"{role}.{name}", p) for role, b in self.models.items() for name, p in b.module.named_parameters())
        named = [*trained, *((name, p) for name, p in every if id(p) not in known)]
        return result, {name: None if p.grad is None else p.grad.clone() for name, p in named}

    def train(self, steps: int, optimizer: Any) -> list[float]:
        """Losses of `steps` updates on the same batch."""
        losses = []
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            result, _ = self.gradients(self.batches)
            optimizer.step()
            self.objective.constrain(self.models)
            losses.append(float(result.loss))
        return losses

    def optimizer(self, learning_rate: float) -> Any:
        from mmalign.train.config import TrainConfig
        from mmalign.train.optim import build_optimizer

        return build_optimizer(
            self.models.trainable(), TrainConfig(learning_rate=learning_rate, warmup_steps=0, weight_decay=0.0)
        )


def build_trainer(entry: Entry, reference: str, bench: Workbench, *, size: int = 8, exact: bool = True) -> Trainer:
    """A trainer in float64 (`exact`) or float32; skips where the objective does not run on that model."""
    import torch

    from mmalign.testing.subjects import CLASSES, load, make_batch, require_compatible, resolve_or_skip
    from mmalign.train.distributed import Processes, StepModule
    from mmalign.train.models import build_models
    from mmalign.train.step import Engine

    source = resolve_or_skip(reference, bench)
    require_compatible(entry.spec, source)
    policy = load(source, bench)
    models = build_models(entry.spec.roles, policy, classes=CLASSES)
    target = bench.catalog.load(entry)
    objective = target(target.Config())
    objective.start(models)
    if exact:
        for module in models.modules():
            module.double()
    models.eval()
    batches = []
    for stream, kinds in entry.spec.examples.items():
        batch = make_batch(kinds[0], policy.processor, bench.folder / "pictures", size, bench)
        columns = {name: _cast(column) if exact else column for name, column in batch.columns.items()}
        batches.append(type(batch)(columns, stream=stream, size=len(batch)))
    processes = Processes("cpu")
    engine = Engine(objective, StepModule(objective, models), processes, torch.device("cpu"))
    return Trainer(entry, objective, models, engine, batches)


def finite_and_complete(build: Callable[..., Trainer]) -> None:
    """Loss, metrics and gradients are finite; every term has a count; outputs are per example."""
    trainer = build()
    for batch in trainer.prepare(trainer.batches):
        outputs = trainer.objective.forward(trainer.models, batch)
        wrong = {name: tuple(value.shape) for name, value in outputs.items() if value.shape[:1] != (len(batch),)}
        assert not wrong, f"forward must return [N, ...] tensors with N = {len(batch)}: {wrong}"
        terms, _ = trainer.objective.loss(outputs, batch)
        counts = trainer.objective.count(batch)
        assert set(terms) == set(counts), f"terms {sorted(terms)} and counts {sorted(counts)} differ"
        shapes = {name: tuple(value.shape) for name, value in terms.items() if value.ndim}
        assert not shapes, f"a term is a sum, a 0-D tensor: {shapes}"
    result, gradients = trainer.gradients(trainer.batches)
    values = {"loss": result.loss, **result.terms} | {name: total for name, (total, _) in result.metrics.items()}
    values |= {f"gradient of {name}": grad.abs().sum() for name, grad in gradients.items() if grad is not None}
    infinite = [name for name, value in values.items() if not math.isfinite(float(value))]
    assert not infinite, f"not finite: {', '.join(infinite[:5])}"


def gradients_in_trainable_roles(build: Callable[..., Trainer]) -> None:
    """Each trained role gets gradients, and no frozen one does."""
    trainer = build()
    _, gradients = trainer.gradients(trainer.batches)
    for role in trainer.entry.spec.roles:
        prefixes = (f"{role.name}.", f"{role.name}_head.")
        own = {name: grad for name, grad in gradients.items() if name.startswith(prefixes)}
        moved = [name for name, grad in own.items() if grad is not None and bool(grad.any())]
        if role.trains:
            assert moved, f"no parameter of the trained role {role.name} gets a gradient"
        else:
            assert not moved, f"the frozen role {role.name} gets gradients: {', '.join(moved[:5])}"


def splits_agree(build: Callable[..., Trainer]) -> None:
    """Loss and gradients of 1x8, 4x2, 8x1 and 3+3+2 are equal to 1e-10."""
    trainer = build()
    whole, expected = trainer.gradients(trainer.batches)
    for size in (2, 1, 3):
        split, found = trainer.gradients(trainer.batches, micro_batch_size=size)
        _assert_same(f"micro-batches of {size}", trainer.limit, whole.loss, expected, split.loss, found)


def permutation_invariant(build: Callable[..., Trainer]) -> None:
    """The order of the examples in a batch does not matter."""
    trainer = build()
    result, expected = trainer.gradients(trainer.batches)
    shuffled = [batch.select([5, 2, 7, 0, 3, 6, 1, 4]) for batch in trainer.batches]
    other, found = trainer.gradients(shuffled)
    _assert_same("a permuted batch", trainer.limit, result.loss, expected, other.loss, found)


def four_rows_overfit(build: Callable[..., Trainer]) -> None:
    """Training on four rows halves the loss."""
    trainer = build(size=4, exact=False)
    optimizer = trainer.optimizer(3e-3)
    losses = trainer.train(5, optimizer=optimizer)
    goal = losses[0] - 0.5 * abs(losses[0])
    while min(losses[-5:]) >= goal and len(losses) < OVERFIT_STEPS:
        losses += trainer.train(5, optimizer=optimizer)
    assert min(losses[-5:]) < goal, f"{len(losses)} steps on four rows: loss {losses[0]:.4g} -> {losses[-1]:.4g}"


def resume_is_exact(build: Callable[..., Trainer]) -> None:
    """Two steps, a checkpoint on disk, two more: bit for bit the same as without the interruption, dropout on.

    Compared are the weights, the optimiser's state and the objective's own. What is neither in `state()` nor drawn from
    the generators of torch, Python or numpy is lost, and shows here.
    """
    import tempfile
    from pathlib import Path

    import torch

    from mmalign.train import checkpoint, rng
    from mmalign.train.optim import load_optimizer_tensors, optimizer_tensors

    def fresh() -> tuple[Trainer, Any]:
        trainer = build(exact=False)
        trainer.models.train(freeze_batchnorm=False)
        return trainer, trainer.optimizer(1e-3)

    cpu = torch.device("cpu")
    first, optimizer = fresh()
    outside = rng.capture(cpu), rng.capture_host()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rng.seed_everything(0, rank=0)
            first.train(2, optimizer=optimizer)
            tensors = optimizer_tensors(optimizer, first.models.trainable())
            state = {"objective": dict(first.objective.state()), "host_rng": rng.capture_host()}
            saved = checkpoint.Checkpoint(2, first.models.state(), tensors, rng.capture(cpu), state)
            path = checkpoint.save(Path(folder), saved)
            first.train(2, optimizer=optimizer)
            second, other = fresh()
            loaded = checkpoint.load(path)
            second.models.load_state(loaded.model)
            second.objective.load_state(loaded.state["objective"])
            load_optimizer_tensors(other, second.models.trainable(), loaded.optimizer)
            rng.restore(loaded.rng, cpu)
            rng.restore_host(loaded.state["host_rng"])
            second.train(2, optimizer=other)
    finally:
        rng.restore(outside[0], cpu)
        rng.restore_host(outside[1])

    def tensors_of(trainer: Trainer, used: Any) -> "dict[str, Tensor]":
        return {**trainer.models.state(), **optimizer_tensors(used, trainer.models.trainable())}

    expected, found = tensors_of(first, optimizer), tensors_of(second, other)
    changed = [n for n, t in expected.items() if n not in found or not torch.equal(t, found[n])]
    assert not changed, f"differs after resuming: {', '.join(changed[:5])}"
    states = dict(first.objective.state()), dict(second.objective.state())
    assert states[0] == states[1], f"the objective's state differs after resuming: {states[0]} and {states[1]}"


_CHECKS: dict[str, Callable[..., None]] = {
    "finite, with a count for each term": finite_and_complete,
    "gradients only in trainable roles": gradients_in_trainable_roles,
    "1x8 equals 4x2": splits_agree,
    "the order of examples does not matter": permutation_invariant,
    "four rows overfit": four_rows_overfit,
    "resuming is bit-equal": resume_is_exact,
}


def _run(function: Callable[..., None], entry: Entry, reference: str, bench: Workbench) -> None:
    from mmalign.testing.subjects import single_thread

    with single_thread():
        function(partial(build_trainer, entry, reference, bench))


def _assert_same(what: str, limit: float, loss: "Tensor", grads: Any, other_loss: "Tensor", others: Any) -> None:
    gap = abs(float(loss) - float(other_loss))
    assert gap <= limit * max(1.0, abs(float(loss))), f"{what}: the loss differs by {gap:.2e}"
    for name, expected in grads.items():
        found = others[name]
        assert (expected is None) == (found is None), f"{what}: {name} has a gradient in one of them only"
        if expected is not None:
            gap = float((expected - found).abs().max()) if expected.numel() else 0.0
            assert gap <= limit * max(1.0, float(expected.abs().max())), (
                f"{what}: the gradient of {name} differs by {gap:.2e}"
            )


def _cast(column: Any) -> Any:
    import torch

    return column.double() if isinstance(column, torch.Tensor) and column.is_floating_point() else column
