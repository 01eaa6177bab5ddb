"""Errors of samples: too many that cannot be read, and a data set or a processor that raises.

A data set and a processor are a plugin's code. Errors that they raise, other than this project's own, are reported with
file and line, also from a worker process.
"""

import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from mmalign.errors import DataError, MmalignError, raised_at

_MIN_BASE = 1000  # with fewer examples, a share of bad ones means little


class Limit:
    """The limit of bad samples."""

    def __init__(self, max_bad: float, num_examples: int) -> None:
        self._max_bad = max_bad
        self._num_examples = num_examples

    def check(self, bad: Mapping[str, str], drawn: int, exhausted: bool) -> None:
        base = min(self._num_examples, max(drawn, _MIN_BASE))
        if len(bad) <= self._max_bad * base and not exhausted:
            return
        shown = "\n".join(
            f"  {reason if key in reason else f'{key}: {reason}'}" for key, reason in list(bad.items())[:5]
        )
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} unreadable samples; data.max_bad={self._max_bad:g} allows {int(self._max_bad * base)} "
            f"of {base:,}:\n{shown}{more}",
            hint="Correct or remove them, or allow more: --set data.max_bad=0.05",
        )


class Carried(NamedTuple):
    """An error on its way from a worker. traceback: of where it was raised, as text, because tracebacks cannot be
    sent."""

    kind: type[MmalignError]
    message: str
    hint: str
    traceback: str


def failure_of(error: Exception, dataset: Any, key: str) -> MmalignError:
    """An error of this project unchanged; any other as a DataError that names the data set, the file and the line."""
    if isinstance(error, MmalignError):
        return error
    kind = type(dataset)
    where = raised_at(error, kind.__module__)
    return DataError(
        f"data set {kind.__qualname__} (of {kind.__module__}), {key}: {type(error).__name__}: {error}{where}",
        hint="Reading or encoding this example raised. MMALIGN_DEBUG=1 shows the traceback.",
    )


def carry(failure: MmalignError, error: Exception) -> Carried:
    text = "".join(traceback.format_exception(error))
    return Carried(type(failure), failure.message, failure.hint, text)


def raise_carried(carried: Carried) -> NoReturn:
    raise carried.kind(carried.message, hint=carried.hint) from RuntimeError(f"in a worker:\n{carried.traceback}")
