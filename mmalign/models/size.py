"""The size of a model, known before its weights are loaded; default learning rates depend on it.

class MyBackbone:
    @classmethod
    def size(cls, source, config): return ModelSize(4_830_720, random=False)
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mmalign.contract.source import Source


class ModelSize(NamedTuple):
    """parameters: of the whole model, as built, without an adapter; 0 where unknown before loading. random: its weights
    start from random numbers."""

    parameters: int
    random: bool


@runtime_checkable
class KnowsSize(Protocol):
    """A backbone class that can tell a model's size without its weights; default learning rates depend on it."""

    @classmethod
    def size(cls, source: "Source", config: Any) -> ModelSize:
        """From the config alone: nothing is downloaded, drawn or stored."""
        ...
