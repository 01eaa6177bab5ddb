"""What an objective's three methods returned, checked where it is used: each fault names the plugin and what is right.

    outputs = returned.outputs(objective, objective.forward(models, batch), batch)
    sums, metrics = returned.loss(objective, objective.loss(outputs, batch))
    counts = returned.counts(objective, objective.count(batch))

Shapes and types alone are looked at, so nothing waits for a GPU. Each raises PluginError.
"""

from collections.abc import Mapping
from typing import Any

import torch

from mmalign.contract.batch import Batch
from mmalign.contract.objective import Metrics, Objective, Outputs
from mmalign.errors import PluginError

_CONTRACT = "See docs/plugins.md; mmalign plugins check PACKAGE tries the whole contract."


def outputs(objective: Objective, value: Any, batch: Batch) -> Outputs:
    """`forward`: a tensor by name, with a row for each of the batch's examples, or for each label of its sequences."""
    if not isinstance(value, Mapping) or not all(isinstance(item, torch.Tensor) for item in value.values()):
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


def loss(objective: Objective, value: Any) -> tuple[Mapping[str, torch.Tensor], Metrics]:
    """`loss`: ({term: 0-D sum}, {metric: (sum, count)})."""
    wanted = "({term: sum over examples}, {metric: (sum, count)})"
    if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(part, Mapping) for part in value):
        raise _fault(objective, "loss", wanted, _kinds(value))
    for name, total in value[0].items():
        if not isinstance(total, torch.Tensor) or total.ndim:
            raise _fault(objective, "loss", f"{wanted}, each sum a 0-D tensor", f"the term {name!r} as {_kind(total)}")
    for name, pair in value[1].items():
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise _fault(objective, "loss", wanted, f"the metric {name!r} as {_kind(pair)}")
    return value


def counts(objective: Objective, value: Any) -> Mapping[str, float]:
    """`count`: a number by term."""
    if not isinstance(value, Mapping):
        raise _fault(objective, "count", "{term: number}, a denominator for each term of loss", _kinds(value))
    return value


def name_of(objective: Objective) -> str:
    """The plugin's class, as its spec's `target` has it."""
    return f"{type(objective).__module__}:{type(objective).__qualname__}"


def _labels(value: Mapping[str, torch.Tensor], examples: int, sequences: Any) -> set[int]:
    """The number of labels, where a length is neither that of the examples nor that of the answers: it is counted."""
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
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
