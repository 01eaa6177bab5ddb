"""A model as one of the views of `mmalign.contract.capabilities.VIEWS`: another interface to the same weights.

policy = through(view, model, options, data=(train, heldout), samples=True)
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from mmalign.contract.capabilities import View


class ViewOfModel(Protocol):
    """A class of the core that wraps a backbone and provides further capabilities; other members are the backbone's."""

    @classmethod
    def wrap(cls, model: Any, options: Any, data: Sequence[Any], samples: bool, say: Callable[[str], None]) -> Self:
        """options: the backbone's. data: the parts of the data, where there are some; samples: whether answers are
        sampled from the model. Raises UsageError."""
        ...


def through(
    view: View,
    model: Any,
    options: Any,
    *,
    data: Sequence[Any] = (),
    samples: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Any:
    """The model as that view of it; see `ViewOfModel.wrap`."""
    module, _, name = view.target.partition(":")
    target: type[ViewOfModel] = getattr(importlib.import_module(module), name)
    return target.wrap(model, options, data, samples, say)
