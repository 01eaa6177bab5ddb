"""Conformance of optimisers: all parameters move, a loss falls, and a resumed run is bit-identical."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mmalign.contract.specs import Entry
from mmalign.testing.bench import Check, Workbench

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from mmalign.train.optim import OptimizerState

_RATE = 1e-2  # AdamW's learning rate on this problem
_STEPS = 40


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [
        Check(f"optimizer {entry.spec.name}: {title}", partial(function, entry, bench))
        for title, function in _CHECKS.items()
    ]


def every_parameter_moves(entry: Entry, bench: Workbench) -> None:
    """Three steps change every matrix, vector and scalar, in two groups with different learning rates."""
    model, optimizer, _ = _start(entry, bench)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    _steps(model, optimizer, 3)
    names = [name for name, _ in model.named_parameters()]
    still = [n for n, old, new in zip(names, before, model.parameters(), strict=True) if bool((old == new).all())]
    assert not still, f"not changed by three steps: {', '.join(still)}"


def a_loss_falls(entry: Entry, bench: Workbench) -> None:
    """The loss of a small regression falls, at AdamW's rate times the spec's `rate`."""
    model, optimizer, _ = _start(entry, bench)
    losses = _steps(model, optimizer, _STEPS)
    assert losses[-1] < 0.9 * losses[0], f"{losses[0]:.4g} became {losses[-1]:.4g} in {_STEPS} steps"


def resuming_is_exact(entry: Entry, bench: Workbench) -> None:
    """Two steps, a checkpoint and two more steps equal four steps bit for bit: weights, state and dtypes."""
    import copy
    import tempfile
    from pathlib import Path

    import torch

    from mmalign.train import checkpoint

    model, optimizer, state = _start(entry, bench)
    _steps(model, optimizer, 2)
    with tempfile.TemporaryDirectory() as folder:
        tensors, rest = state.capture()
        weights = copy.deepcopy(model.state_dict())
        path = checkpoint.save(Path(folder), checkpoint.Checkpoint(2, weights, tensors, {}, {"optimizer": rest}))
        _steps(model, optimizer, 2)
        saved = checkpoint.load(path)
    second, second_optimizer, restored = _start(entry, bench)
    second.load_state_dict(dict(saved.model))
    restored.restore(saved.optimizer, saved.state["optimizer"])
    _steps(second, second_optimizer, 2)
    (expected, values), (resumed, resumed_values) = state.capture(), restored.capture()
    expected |= dict(model.state_dict())
    resumed |= dict(second.state_dict())
    assert set(resumed) == set(expected), f"lost or added: {', '.join(sorted(set(resumed) ^ set(expected))[:5])}"
    wrong = [n for n, t in expected.items() if t.dtype != resumed[n].dtype or not torch.equal(t, resumed[n])]
    assert not wrong, f"differs after resuming: {', '.join(wrong[:5])}"
    assert values == resumed_values, "state that is not a tensor differs after resuming"


def _start(entry: Entry, bench: Workbench) -> "tuple[nn.Module, Optimizer, OptimizerState]":
    import torch

    from mmalign.train.optim import OptimizerState, build_optimizer

    builder: Any = bench.catalog.load(entry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.Tanh(), torch.nn.Linear(32, 4)
        )
        model.register_parameter("scale", torch.nn.Parameter(torch.ones(())))
    named = [(f"critic.{n}" if n.startswith("3.") else f"policy.{n}", p) for n, p in model.named_parameters()]
    rate = _RATE * entry.spec.rate
    optimizer = build_optimizer(builder, builder.Config(), named, rate, {"critic": 2 * rate})
    return model, optimizer, OptimizerState(optimizer, named)


def _steps(model: "nn.Module", optimizer: "Optimizer", number: int) -> list[float]:
    """Make `number` steps; returns the loss before each."""
    import torch

    generator = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randn(64, width, generator=generator) for width in (16, 4))
    losses = []
    for _ in range(number):
        optimizer.zero_grad(set_to_none=True)
        scale: Tensor = model.get_parameter("scale")
        loss = (scale * model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


_CHECKS: dict[str, Callable[[Entry, Workbench], None]] = {
    "every parameter moves": every_parameter_moves,
    "a loss falls": a_loss_falls,
    "resuming is bit-equal": resuming_is_exact,
}
