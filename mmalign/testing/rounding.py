"""The allowed difference between two float computations of the same value, by the model's precision and size.

rounding(backbone.module)      # 1e-5 for a tiny float32 model, 1.2e-4 for one of 135 million parameters
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_SMALLEST = 1e-5  # for a tiny model in float32, different summation order
_PER_STEP = 2.0


def rounding(module: "nn.Module") -> float:
    """An absolute limit for log-probabilities and embeddings. Errors add up along the longest chain of sums. Its length
    is proportional to the model's depth and width, so to the cube root of the number of parameters."""
    import torch

    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    epsilon = max((torch.finfo(parameter.dtype).eps for parameter in parameters), default=0.0)
    count = sum(parameter.numel() for parameter in parameters)
    scale = epsilon / torch.finfo(torch.float32).eps
    return max(_SMALLEST * max(1.0, scale), _PER_STEP * epsilon * count ** (1 / 3))
