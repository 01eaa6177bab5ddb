"""Conformance of objectives, with the real training engine, on every tiny backbone that they are compatible with."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mmalign.contract.specs import Entry
from mmalign.registry.compat import check
from mmalign.testing import online_checks
from mmalign.testing.bench import Check, Skip, Workbench
from mmalign.testing.trainer import Trainer, build_trainer

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.batch import Batch

OVERFIT_STEPS = 50


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    """Each check on each tiny model that the objective may run on; if there is none, one check that says so."""
    name, fitting = entry.spec.name, _fitting(entry, bench)
    if not fitting:
        return [Check(f"objective {name}: runs on a tiny model", partial(_runs_nowhere, entry))]
    return [
        Check(f"objective {name} on {reference}: {title}", partial(_run, function, entry, reference, bench))
        for reference in fitting
        for title, function in {**_CHECKS, **(online_checks.CHECKS if entry.spec.online else {})}.items()
    ]


def _fitting(entry: Entry, bench: Workbench) -> list[str]:
    """The tiny models that the objective may run on; of those that it runs on through a view, one of each family, since
    the view hides the rest of their differences."""
    fitting, viewed = [], set[str]()
    for reference in bench.model_names:
        known = bench.family(reference)
        if known is not None:
            family = known[1]
            verdict = check(entry.spec, family, bench.catalog)
            if not verdict.ok or (verdict.view is not None and family.name in viewed):
                continue
            viewed |= {family.name} if verdict.view is not None else set()
        fitting.append(reference)
    return fitting


def _runs_nowhere(entry: Entry) -> None:
    needs = sorted({need for role in entry.spec.roles for need in role.needs})
    raise Skip(f"no tiny model provides {', '.join(needs)}: add one with conformance(..., models={{...}})")


def finite_and_complete(build: Callable[..., Trainer]) -> None:
    """Loss, metrics and gradients are finite; every term has a count; outputs are per example."""
    trainer = build()
    for phase, batch in ((phase, b) for b in trainer.prepare(trainer.batches) for phase in trainer.engine.of(b)):
        outputs = phase.forward(trainer.models, batch)
        lengths = _lengths(trainer, batch)
        wrong = {name: tuple(value.shape) for name, value in outputs.items() if value.shape[:1] not in lengths}
        which = " or P = ".join(str(length) for (length,) in lengths)
        assert not wrong, f"forward must return [N, ...] tensors with N = {which}: {wrong}"
        terms, _ = phase.loss(outputs, batch)
        counts = phase.count(batch)
        assert set(terms) == set(counts), f"terms {sorted(terms)} and counts {sorted(counts)} differ"
        shapes = {name: tuple(value.shape) for name, value in terms.items() if value.ndim}
        assert not shapes, f"a term is a sum, a 0-D tensor: {shapes}"
    result, gradients = trainer.gradients(trainer.batches)
    values = {"loss": result.loss, **result.terms} | {name: total for name, (total, _) in result.metrics.items()}
    values |= {f"gradient of {name}": grad.abs().sum() for name, grad in gradients.items() if grad is not None}
    infinite = [name for name, value in values.items() if not math.isfinite(float(value))]
    assert not infinite, f"not finite: {', '.join(infinite[:5])}"


def _lengths(trainer: Trainer, batch: "Batch") -> list[tuple[int]]:
    """Allowed first dimensions of outputs: N and, for an objective that does not mix examples, the number of labels."""
    if trainer.objective.coupled or "sequences" not in batch:
        return [(len(batch),)]
    return [(len(batch),), (int(batch["sequences"].num_labels().sum()),)]


def gradients_in_trainable_roles(build: Callable[..., Trainer]) -> None:
    """Each trained role gets gradients, and no frozen role does."""
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
    sampled = None if trainer.feed.comparable_loss else trainer.prepare(trainer.batches)
    whole, expected = trainer.gradients_of(sampled) if sampled else trainer.gradients(trainer.batches)
    for size in (2, 1, 3):
        split, grads = trainer.gradients_of(sampled, size) if sampled else trainer.gradients(trainer.batches, size)
        _assert_same(f"micro-batches of {size}", trainer.limit, whole.loss, expected, split.loss, grads)


def permutation_invariant(build: Callable[..., Trainer]) -> None:
    """The order of the examples in a batch does not matter. Sampled answers depend on the order, so with them the
    batches are permuted after `prepare`."""
    trainer = build()
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    if not trainer.feed.comparable_loss:
        prepared = trainer.prepare(trainer.batches)
        result, expected = trainer.gradients_of(prepared)
        permuted, grads = trainer.gradients_of([batch.select(order) for batch in prepared])
    else:
        result, expected = trainer.gradients(trainer.batches)
        permuted, grads = trainer.gradients([batch.select(order) for batch in trainer.batches])
    _assert_same("a permuted batch", trainer.limit, result.loss, expected, permuted.loss, grads)


def four_rows_overfit(build: Callable[..., Trainer]) -> None:
    """Training on four rows halves the loss or, for an objective that samples, halves the distance of the mean score
    from 1."""
    trainer = build(size=4, exact=False)
    rises = not trainer.feed.comparable_loss
    optimizer = trainer.optimizer(2e-2 if rises else 3e-3)
    history = trainer.train(5, optimizer=optimizer)
    first = sum(history) / len(history) if rises else history[0]  # scores are noisier
    goal = (first + 1) / 2 if rises else first - 0.5 * abs(first)

    def reached() -> bool:
        return sum(history[-5:]) / 5 > goal if rises else min(history[-5:]) < goal

    while not reached() and len(history) < OVERFIT_STEPS:
        history += trainer.train(5, optimizer=optimizer)
    name = "score" if rises else "loss"
    assert reached(), f"{len(history)} steps on four rows: {name} {first:.4g} -> {history[-1]:.4g}, not {goal:.4g}"


def resume_is_exact(build: Callable[..., Trainer]) -> None:
    """Two steps, a checkpoint on disk and two more steps give the same as four steps, bit for bit, with dropout on.

    Compares the weights, the optimiser's state and the objective's `state`. Other state is not saved, except that of
    the generators of torch, Python and numpy; if a result depends on it, this check fails.
    """
    import tempfile
    from pathlib import Path

    import torch

    from mmalign.train import checkpoint, rng
    from mmalign.train.optim import OptimizerState

    def fresh() -> tuple[Trainer, Any, OptimizerState]:
        trainer = build(exact=False)
        trainer.models.train(freeze_batchnorm=False)
        optimizer = trainer.optimizer(1e-3)
        return trainer, optimizer, OptimizerState(optimizer, trainer.models.trainable())

    cpu = torch.device("cpu")
    first, optimizer, kept = fresh()
    outside = rng.capture(cpu), rng.capture_host()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rng.seed_everything(0, rank=0)
            first.train(2, optimizer=optimizer)
            tensors, rest = kept.capture()
            state = {"optimizer": rest, "objective": first.objective.state, "host_rng": rng.capture_host()}
            saved = checkpoint.Checkpoint(2, first.models.state(), tensors, rng.capture(cpu), state)
            path = checkpoint.save(Path(folder), saved)
            first.train(2, optimizer=optimizer)
            second, second_optimizer, restored = fresh()
            second.steps = first.steps - 2
            loaded = checkpoint.load(path)
            second.models.load_state(loaded.model)
            second.objective.state = dict(loaded.state["objective"])
            restored.restore(loaded.optimizer, loaded.state["optimizer"])
            rng.restore(loaded.rng, cpu)
            rng.restore_host(loaded.state["host_rng"])
            second.train(2, optimizer=second_optimizer)
    finally:
        rng.restore(outside[0], cpu)
        rng.restore_host(outside[1])

    expected = {**first.models.state(), **kept.capture()[0]}
    resumed = {**second.models.state(), **restored.capture()[0]}
    changed = [n for n, t in expected.items() if n not in resumed or not torch.equal(t, resumed[n])]
    assert not changed, f"differs after resuming: {', '.join(changed[:5])}"
    states = first.objective.state, second.objective.state
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


def _assert_same(case: str, limit: float, loss: "Tensor", grads: Any, other_loss: "Tensor", others: Any) -> None:
    gap = abs(float(loss) - float(other_loss))
    assert gap <= limit * max(1.0, abs(float(loss))), f"{case}: the loss differs by {gap:.2e}"
    for name, expected in grads.items():
        other = others[name]
        assert (expected is None) == (other is None), f"{case}: {name} has a gradient in only one of the two"
        if expected is not None:
            gap = float((expected - other).abs().max()) if expected.numel() else 0.0
            assert gap <= limit * max(1.0, float(expected.abs().max())), (
                f"{case}: the gradient of {name} differs by {gap:.2e}"
            )
