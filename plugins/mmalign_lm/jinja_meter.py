"""Limits of one rendering of a chat template: for each value, for all values, and for time.

    meter = Meter(variables)
    meter.require(len(text) * 3)                       # before it is made
    meter.made(text * 3)                               # afterwards

The functions here bound the length of an operation's result and refuse the operation before it runs. All raise
BadSample.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmalign.errors import BadSample

MAX_LENGTH = 10_000_000  # characters of one value; or four times the length of the input, if that is more
MAX_SECONDS = 10.0  # CPU seconds of this thread
_ALL_VALUES = 20  # limit of all values of a rendering together, as a multiple of one value's
_MAX_NODES = 200_000  # elements of one value, however deep
_MAX_BITS = 4096
_LONG_NUMBER = re.compile(r"\d{7,}")  # a width in a format


class Meter:
    """Measures one rendering. Raises BadSample past a limit."""

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
        """The value, after a check that it is within the limits."""
        self.tick()
        self._left -= self.size(value)
        if self._left < 0:
            raise BadSample(f"the chat template makes more than {_ALL_VALUES * self.limit:,} characters of texts")
        return value

    def size(self, value: Any, *, checked: bool = True) -> int:
        """Characters of texts plus number of elements, at any depth; stops counting past a limit."""
        characters, count, waiting = 0, 0, [value]
        while waiting:
            each = waiting.pop()
            characters += 1 + (len(each) if isinstance(each, str | list | tuple | dict) else 0)
            count += 1
            if checked:
                self.require(characters)
                if count > _MAX_NODES:
                    raise BadSample(f"the chat template makes a list of more than {_MAX_NODES:,} elements")
            if isinstance(each, list | tuple):
                waiting += each
            elif isinstance(each, dict):
                waiting += each.values()
                characters += sum(len(key) for key in each if isinstance(key, str))
        return characters

    def arguments(self, values: Iterable[Any]) -> None:
        """Refuses values that are too long, and numbers that may be a width."""
        for value in values:
            if isinstance(value, int) and not isinstance(value, bool):
                self.require(abs(value))
            self.size(value)


def require_method(meter: Meter, name: str, text: str, args: Sequence[Any]) -> None:
    """Bounds the length of the text that a method or filter makes of a text."""
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
    """Refuses a width of a million or more, in the format or in a value that the format takes as a width."""
    nested = re.search(r"\{[^{}]*\{", text.replace("{{", "").replace("}}", ""))
    if _LONG_NUMBER.search(text) or nested or re.search(r"%[^a-zA-Z]*\*", text):
        raise BadSample("the chat template pads a text to a width that it computes, or to a million or more")
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
