"""What one rendering of a chat template may take: a limit for each value, for all of them, and for time.

    meter = Meter(variables)
    meter.require(len(text) * 3)                       # before it is made
    meter.made(text * 3)                               # afterwards

The functions here say how long what an operation makes can be, at most, and refuse it before it runs. All raise
BadSample.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmalign.errors import BadSample

MAX_LENGTH = 10_000_000  # characters of one value, or four times what is rendered
MAX_SECONDS = 10.0  # of this thread's processor
_ALL_VALUES = 20  # times as much in all values that a rendering makes
_MAX_NODES = 200_000  # elements of one value, however deep
_MAX_BITS = 4096
_LONG_NUMBER = re.compile(r"\d{7,}")  # a width in a format


class Meter:
    """What one rendering may take. Raises BadSample past it."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.limit = MAX_LENGTH
        self.limit = max(MAX_LENGTH, 4 * self.size(list(variables.values()), checked=False))
        self._left = _ALL_VALUES * self.limit
        self._until = time.thread_time() + MAX_SECONDS
        self._ticks = 0
        self.written = 0
        self.spans: list[tuple[int, int]] = []

    def tick(self) -> None:
        self._ticks += 1
        if not self._ticks % 64 and time.thread_time() > self._until:
            raise BadSample(f"the chat template takes more than {MAX_SECONDS:.0f} seconds for one conversation")

    def require(self, size: int) -> None:
        if size > self.limit:
            raise BadSample(f"the chat template makes a text of more than {self.limit:,} characters")

    def made(self, value: Any) -> Any:
        """The value, once it is known to be within the limits."""
        self.tick()
        self._left -= self.size(value)
        if self._left < 0:
            raise BadSample(f"the chat template makes more than {_ALL_VALUES * self.limit:,} characters of texts")
        return value

    def size(self, value: Any, *, checked: bool = True) -> int:
        """Characters of texts and number of elements, however deep; past a limit it counts no further."""
        total, count, waiting = 0, 0, [value]
        while waiting:
            each = waiting.pop()
            total += 1 + (len(each) if isinstance(each, str | list | tuple | dict) else 0)
            count += 1
            if checked:
                self.require(total)
                if count > _MAX_NODES:
                    raise BadSample(f"the chat template makes a list of more than {_MAX_NODES:,} elements")
            if isinstance(each, list | tuple):
                waiting += each
            elif isinstance(each, dict):
                waiting += each.values()
                total += sum(len(key) for key in each if isinstance(key, str))
        return total

    def arguments(self, values: Iterable[Any]) -> None:
        """Refuses what is too long, and a number that may be a width."""
        for value in values:
            if isinstance(value, int) and not isinstance(value, bool):
                self.require(abs(value))
            self.size(value)


def require_method(meter: Meter, name: str, text: str, args: Sequence[Any]) -> None:
    """The length of what a method or filter makes of a text, at most."""
    texts = [arg for arg in args if isinstance(arg, str)]
    widths = [*map(len, texts), *(arg for arg in args if isinstance(arg, int))]
    if name == "replace" and len(texts) > 1:
        meter.require(len(text) + text.count(texts[0]) * len(texts[1]))
    elif name == "indent":
        meter.require(len(text) + (text.count("\n") + 1) * max([4, *widths]))
    elif name == "expandtabs":
        meter.require(len(text) + text.count("\t") * max([8, *widths]))
    elif name == "translate" and args:
        meter.require(len(text) * max([1, *(len(v) for v in args[0].values() if isinstance(v, str))]))
    elif name == "join" and args:
        parts = [*args[0]] if isinstance(args[0], list | tuple | dict | str) else []
        meter.require(len(text) * len(parts) + meter.size(parts))


def require_format(meter: Meter, text: str, args: Sequence[Any]) -> None:
    """No width of a million or more: in the format, or from a value that it takes for one."""
    nested = re.search(r"\{[^{}]*\{", text.replace("{{", "").replace("}}", ""))
    if _LONG_NUMBER.search(text) or nested or re.search(r"%[^a-zA-Z]*\*", text):
        raise BadSample("the chat template pads a text to a width of its own")
    meter.require(len(text) + sum(map(meter.size, args)) * (1 + text.count("%") + text.count("{")))


def require_product(meter: Meter, left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            meter.require(meter.size(value) * max(times, 0))
    if are_ints(left, right):
        require_number(left.bit_length() + right.bit_length())


def require_number(bits: int) -> None:
    if bits > _MAX_BITS:
        raise BadSample(f"the chat template makes a number of more than {_MAX_BITS:,} bits")


def are_ints(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)
