"""Sign descent on a momentum that is kept in 8 bits (after Bernstein 2018, signSGD; Dettmers 2022, block-wise states).

m <- b dequantised(q) + (1 - b) g,   w <- w - lr (sign(m) + d w),   q = quantised(m)

Each block of 64 numbers has a scale of its own: its largest magnitude.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mmalign.contract.optimizer import OptimizerConfig, ParameterGroup

_BLOCK = 64


class Momentum8:
    class Config(OptimizerConfig):
        beta: float = Field(0.9, ge=0, lt=1, description="b: decay of the momentum")
        weight_decay: float = Field(0.0, ge=0, description="d: per unit of learning rate")

    @staticmethod
    def build(groups: Sequence[ParameterGroup], config: "Momentum8.Config") -> torch.optim.Optimizer:
        own = [{"params": [p for _, p in group.parameters], "lr": group.rate} for group in groups]
        return _Momentum8(own, {"beta": config.beta, "weight_decay": config.weight_decay, "num_calls": 0})


class _Momentum8(torch.optim.Optimizer):
    """State of a parameter: `momentum`, uint8 [B, 64]; `scale`, float32 [B, 1]; `num_updates`, an int. A param group
    counts its calls."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["num_calls"] += 1
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, beta = self.state[parameter], group["beta"]
                gradient = parameter.grad.float().flatten()
                momentum = _dequantised(state, gradient.numel()) if state else torch.zeros_like(gradient)
                momentum = beta * momentum + (1 - beta) * gradient
                state["momentum"], state["scale"] = _quantised(momentum)
                state["num_updates"] = state.get("num_updates", 0) + 1
                step = momentum.view_as(parameter).sign() + group["weight_decay"] * parameter
                parameter.sub_(group["lr"] * step)


def _quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    blocks = torch.nn.functional.pad(values, (0, -len(values) % _BLOCK)).view(-1, _BLOCK)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
    return (blocks / scale * 127 + 128).round().to(torch.uint8), scale


def _dequantised(state: dict[str, Tensor], size: int) -> Tensor:
    return ((state["momentum"].float() - 128) / 127 * state["scale"]).flatten()[:size]
