"""Count the bytes of the live tensors that operators made, on any device.

    with LiveBytes(known=[weights, inputs]) as count:
        loss(model(inputs)).backward()
    count.peak                                         # most at one time, without the known tensors

The count is the same every time, unlike an allocator's or the system's. It misses memory used within a kernel.
"""

import functools
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """known: tensors whose storage is not counted."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._counted: dict[int, Any] = {}  # weak references, whose callback reports a freed storage
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:  # others have no storage of their own
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._counted:
            return
        self.live += size
        self.peak = max(self.peak, self.live)
        self._counted[key] = weakref.ref(storage, functools.partial(self._drop, key, size))

    def _drop(self, key: int, size: int, reference: Any) -> None:
        del self._counted[key]
        self.live -= size
