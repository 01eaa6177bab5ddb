"""The optimiser of a run, its state in a checkpoint, and learning-rate schedules.

The rate is a function of the step, so a resumed run needs no scheduler state.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.contract.optimizer import OptimizerBuilder, ParameterGroup
from mmalign.errors import CheckpointError, PluginError
from mmalign.train.config import TrainConfig

Named = Sequence[tuple[str, nn.Parameter]]
_SET_HERE = ("params", "lr", "factor")  # options of a param group that the run sets, not the optimiser


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of step `step` (from 0): linear warm-up over `warmup_steps`, then cosine to the minimum, or constant."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    span = max(1, config.steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    low, high = config.min_learning_rate, config.learning_rate
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))


def build_optimizer(
    builder: type[OptimizerBuilder],
    config: Any,
    parameters: Named,
    rate: float,
    peaks: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Build the optimiser; raises PluginError if it leaves parameters out or mixes learning rates in a group.

    rate: the run's peak learning rate. peaks: role -> its own peak, for its parameters and its head. Each param group's
    "factor" is its share of the rate given to `set_learning_rate`.
    """
    grouped: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in parameters:
        role = name.partition(".")[0].removesuffix("_head")
        grouped.setdefault((peaks or {}).get(role, rate) / rate, []).append((name, parameter))
    groups = [ParameterGroup(tuple(named), rate * factor, factor) for factor, named in sorted(grouped.items())]
    optimizer = builder.build(groups, config)
    factors = {id(parameter): group.factor for group in groups for _, parameter in group.parameters}
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if sorted(held) != sorted(factors):
        wanted = f"exactly the {len(factors)} parameters that train"
        raise PluginError(f"{builder.__name__} must hold {wanted}; it holds {len(held)}")
    for group in optimizer.param_groups:
        own = {factors[id(parameter)] for parameter in group["params"]}
        if len(own) > 1:
            raise PluginError(f"{builder.__name__} has a param group with parameters of several learning rates")
        group["factor"] = own.pop() if own else 1.0
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of each group to its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def state_bytes(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> int:
    """Bytes that the optimiser keeps for these parameters."""
    states = (optimizer.state.get(parameter, {}) for parameter in parameters)
    return sum(leaf.nbytes for state in states for _, leaf in _leaves(state) if isinstance(leaf, Tensor))


class OptimizerState:
    """An optimiser's state between steps, as a checkpoint holds it.

    Make it before the first step: options that differ later were changed by the optimiser, and are saved.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Named) -> None:
        self._optimizer = optimizer
        self._named = {id(parameter): (name, parameter) for name, parameter in parameters}
        self._at_first = [_options(group) for group in optimizer.param_groups]

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """({"parameter/key": tensor}, the rest as JSON values); raises CheckpointError for a value that is neither."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        on_host: list[str] = []
        state = self._optimizer.state_dict()["state"]
        for index, (name, parameter) in enumerate(self._in_order()):
            for key, leaf in _leaves(state.get(index, {})):
                path = f"{name}/{key}"
                if isinstance(leaf, Tensor):
                    tensors[path] = leaf
                    if leaf.device.type == "cpu" != parameter.device.type:
                        on_host.append(path)
                else:
                    values[path] = _as_json(leaf, f"the optimiser's {key} of {name}")
        changed = [
            {key: value for key, value in _options(group).items() if value != first.get(key)}
            for group, first in zip(self._optimizer.param_groups, self._at_first, strict=True)
        ]
        return tensors, {"values": values, "on_host": on_host, "groups": changed}

    def restore(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Restore what `capture` returned; raises CheckpointError for unknown parameters. rest: empty in format 1."""
        names = {name for name, _ in self._named.values()}
        by_name: dict[str, dict[str, Any]] = {}
        for path, leaf in [*tensors.items(), *rest.get("values", {}).items()]:
            name, _, key = path.partition("/")
            by_name.setdefault(name, {})[key] = leaf
        unknown = sorted(set(by_name) - names)
        if unknown:
            raise CheckpointError(f"optimiser state for parameters this model lacks: {', '.join(unknown[:3])}")
        current = self._optimizer.state_dict()
        for group, changed in zip(current["param_groups"], rest.get("groups", ()), strict=False):
            group.update({key: _as_before(value, group.get(key)) for key, value in changed.items()})
        ordered = list(self._in_order())
        states = {i: _nested(by_name[name]) for i, (name, _) in enumerate(ordered) if name in by_name}
        self._optimizer.load_state_dict({**current, "state": states})
        self._exactly(ordered, by_name, frozenset(rest.get("on_host", ())))

    def _exactly(
        self, ordered: list[tuple[str, nn.Parameter]], saved: Mapping[str, Mapping[str, Any]], on_host: frozenset[str]
    ) -> None:
        """Restore dtypes: torch casts a parameter's state to its dtype, which would lose 8-bit moments."""
        for name, parameter in ordered:
            state = self._optimizer.state.get(parameter)
            if not isinstance(state, dict) or name not in saved:
                continue
            for key, leaf in saved[name].items():
                *path, last = key.split("/")
                holder: Any = state
                for step in path:
                    holder = holder[_key(holder, step)]
                if isinstance(leaf, Tensor) and not isinstance(holder, tuple):
                    device = torch.device("cpu") if f"{name}/{key}" in on_host else parameter.device
                    holder[_key(holder, last)] = leaf.to(device, copy=True)

    def _in_order(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by the number that `state_dict` gives them."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                yield self._named[id(parameter)]


def _leaves(state: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten mappings and lists: ("exp_avg", tensor), ("inner/scale", tensor), ("list/[0]", tensor)."""
    if isinstance(state, Mapping) and (state or not prefix):
        for key, value in state.items():
            yield from _leaves(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(state, list) and state:
        for number, value in enumerate(state):
            yield from _leaves(value, f"{prefix}/[{number}]")
    else:
        yield prefix, state


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `_leaves`."""
    state: dict[str, Any] = {}
    for key, leaf in flat.items():
        *path, last = key.split("/")
        holder = state
        for step in path:
            holder = holder.setdefault(step, {})
        holder[last] = leaf.clone() if isinstance(leaf, Tensor) else leaf
    return {key: _as_lists(value) for key, value in state.items()}


def _as_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _as_lists(item) for key, item in value.items()}
    return list(inner.values()) if inner and all(key.startswith("[") for key in inner) else inner


def _key(holder: Any, step: str) -> Any:
    return int(step[1:-1]) if isinstance(holder, list) else step


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """A param group's options as JSON values, without _SET_HERE."""
    return {key: _as_json(value, f"the option {key}") for key, value in group.items() if key not in _SET_HERE}


def _as_json(value: Any, name: str) -> Any:
    try:
        return json.loads(json.dumps(value.tolist() if isinstance(value, Tensor) else value))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{name} is {type(value).__name__}, which a checkpoint cannot hold",
            hint="An optimiser's state may hold tensors, numbers, texts, lists and mappings.",
        ) from error


def _as_before(value: Any, current: Any) -> Any:
    """Convert a JSON value to the type of the value that it replaces."""
    if isinstance(current, tuple):
        return tuple(value)
    return torch.tensor(value, dtype=current.dtype, device=current.device) if isinstance(current, Tensor) else value
