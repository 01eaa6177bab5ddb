"""The interface of optimisers: a plugin builds a torch optimiser for the trained parameters.

    class AdamW:
        class Config(OptimizerConfig): ...
        @staticmethod
        def build(groups, config): return torch.optim.AdamW(...)

The training loop clips gradients, sets the learning rate of each param group before every step, and calls `step()`
without a closure. Checkpoints save the optimiser's `state_dict` and restore it by `load_state_dict`. Every tensor keeps
its dtype, so a resumed run is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class OptimizerConfig(BaseModel):
    """The options of an optimiser; every field is described, with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class ParameterGroup:
    """Named parameters with one peak learning rate: `rate`, which is `factor` times the run's."""

    parameters: "tuple[tuple[str, nn.Parameter], ...]"
    rate: float
    factor: float = 1.0


class OptimizerBuilder(Protocol):
    """The target of an `OptimizerSpec`."""

    Config: ClassVar[type[BaseModel]]

    @staticmethod
    def build(groups: Sequence[ParameterGroup], config: Any) -> "Optimizer":
        """An optimiser of all these parameters. It may split a group by name or shape. A param group must not contain
        parameters of two groups, because it gets the learning rate of one. Raises UsageError for parameters that it
        cannot train."""
        ...
