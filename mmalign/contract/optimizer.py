"""What an optimiser's plugin provides: how an optimiser is built from the parameters that train.

    class AdamW:
        class Config(OptimizerConfig): ...
        @staticmethod
        def build(groups, config): return torch.optim.AdamW(...)

The loop clips gradients, sets each param group's rate before every step, and calls `step()` without a closure. What the
optimiser keeps between steps is read from its `state_dict` and put back by `load_state_dict`, every tensor with its own
dtype, so that a resumed run is exact.
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
    """Named parameters that train at one learning rate: `rate`, the peak, which is `factor` times the run's."""

    parameters: "tuple[tuple[str, nn.Parameter], ...]"
    rate: float
    factor: float = 1.0


class OptimizerBuilder(Protocol):
    """The target of an `OptimizerSpec`."""

    Config: ClassVar[type[BaseModel]]

    @staticmethod
    def build(groups: Sequence[ParameterGroup], config: Any) -> "Optimizer":
        """An optimiser of all these parameters. It may divide a group further, by name or shape, but its own param
        groups must not mix two: each is given its group's rate. Raises UsageError for parameters that it cannot train.
        """
        ...
