"""How large a model is, told before its weights are there: what default learning rates go by.

class MyBackbone:
    @classmethod
    def size(cls, source, config): return ModelSize(4_830_720, random=False)
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mmalign.contract.source import Source


class ModelSize(NamedTuple):
    """parameters: of the whole model, as built, without an adapter; 0 where that is not known before loading. random:
    its weights start from random numbers."""

    parameters: int
    random: bool


@runtime_checkable
class KnowsSize(Protocol):
    """A backbone class that can tell how large a model is without its weights: default learning rates go by it."""

    @classmethod
    def size(cls, source: "Source", config: Any) -> ModelSize:
        """From the config alone: nothing is downloaded, drawn or kept."""
        ...
