"""AdamW and learning-rate schedules. The rate is a function of the step, so a resumed run needs no scheduler state."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmalign.errors import CheckpointError
from mmalign.train.config import TrainConfig

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


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
    parameters: Sequence[tuple[str, nn.Parameter]], config: TrainConfig, peaks: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), without decay on 0-D and 1-D parameters: scales, biases and norms.

    peaks: role -> peak learning rate of its parameters and its head's, where it is not `config.learning_rate`. Each
    group's "factor" is its share of the rate that `set_learning_rate` is given.
    """
    factors = {role: peak / config.learning_rate for role, peak in (peaks or {}).items()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        role = name.partition(".")[0].removesuffix("_head")
        groups.setdefault((factors.get(role, 1.0), parameter.ndim < 2), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": group, "weight_decay": 0.0 if plain else config.weight_decay, "factor": factor}
            for (factor, plain), group in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        # One pass over memory instead of a dozen: a quarter of the time on a CPU.
        fused=all(parameter.device.type in _FUSED_DEVICES for _, parameter in parameters),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of each group to its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Sequence[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """The optimiser's state as {"parameter/moment": tensor}, ready for safetensors."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Sequence[tuple[str, nn.Parameter]], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned; raises CheckpointError for names that do not match."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        state.setdefault(name, {})[moment] = tensor
    unknown = set(state) - {name for name, _ in parameters}
    if unknown:
        raise CheckpointError(f"optimiser state for parameters this model lacks: {', '.join(sorted(unknown)[:3])}")
    for name, parameter in parameters:
        if name in state:
            # The step counter stays float32 whatever the parameter is; fused AdamW keeps it beside the parameter.
            counter = parameter.device if optimizer.defaults["fused"] else "cpu"
            optimizer.state[parameter] = {
                moment: tensor.to(counter, copy=True)
                if moment == "step"
                else tensor.to(parameter.device, parameter.dtype, copy=True)
                for moment, tensor in state[name].items()
            }
