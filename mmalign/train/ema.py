"""An exponential moving average of the trained weights over updates: steadier than the last weights.

    average = MovingAverage(parameters, decay=0.992)
    average.update()                       # after each optimiser update: a <- d a + (1 - d) w
    average.take_over()                    # at the end: the weights become the average

(Polyak & Juditsky 1992; InstructGPT takes 0.992 for its policy, Ouyang 2022, appendix C.)
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_PREFIX = "average/"


class MovingAverage:
    """The average of named parameters, in their precision; it starts at their current values."""

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], decay: float) -> None:
        self._parameters, self._decay = list(parameters), decay
        self._averages = [parameter.detach().clone() for _, parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        live: list[Tensor] = [parameter for _, parameter in self._parameters]
        torch._foreach_lerp_(self._averages, live, 1 - self._decay)

    @torch.no_grad()
    def take_over(self) -> None:
        for (_, parameter), average in zip(self._parameters, self._averages, strict=True):
            parameter.copy_(average)

    def state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint keeps beside the model's own."""
        names = [name for name, _ in self._parameters]
        return {_PREFIX + name: average for name, average in zip(names, self._averages, strict=True)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the average; if the checkpoint has none, start at the current weights."""
        for (name, average), (_, parameter) in zip(self.state().items(), self._parameters, strict=True):
            average.copy_(state.get(name, parameter.detach()))
