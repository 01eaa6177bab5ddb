"""A cache of keys and values with spare room: a new token is written in place, where transformers copies all before it.

cache = Cache(layer_class_to_replicate=RoomyLayer)
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_MORE = 64  # tokens of room added at once


class RoomyLayer(DynamicLayer):
    """`keys` and `values` are the filled beginnings of longer buffers. Tensors assigned to them from outside get new
    buffers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._roomy = (_Roomy(), _Roomy())

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, [n, heads, t, width] each, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._roomy[0].append(self.keys, key_states)
        self.values = self._roomy[1].append(self.values, value_states)
        return self.keys, self.values


class _Roomy:
    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._filled: Tensor | None = None

    def append(self, before: Tensor | None, new: Tensor) -> Tensor:
        """[n, heads, T, width] or None, and [n, heads, t, width] -> [n, heads, T + t, width]."""
        start = before.shape[2] if before is not None and before.dim() == 4 else 0
        stop = start + new.shape[2]
        if self._memory is None or before is not self._filled or self._memory.shape[2] < stop:
            n, heads, _, width = new.shape
            self._memory = new.new_empty(n, heads, stop + _MORE, width)
            if before is not None and start:
                self._memory[:, :, :start] = before
        self._memory[:, :, start:stop] = new
        self._filled = self._memory[:, :, :stop]
        return self._filled
