"""What goes wrong with samples: too many that cannot be read, and a data set or a processor that raises.

Data set and processor are a plugin's code: what they raise, besides errors of this project, is theirs, and is told with
its file and line, from a worker process too.
"""

import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from mmalign.errors import DataError, MmalignError, raised_at

_MIN_BASE = 1000  # below so many examples, a share of bad ones says little


class Limit:
    """When bad samples are too many."""

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
            hint="Mend or remove them, or allow more: --set data.max_bad=0.05",
        )


class Carried(NamedTuple):
    """An error on its way from a worker. traceback: of where it was raised, which does not travel itself."""

    kind: type[MmalignError]
    message: str
    hint: str
    traceback: str


def failure_of(error: Exception, dataset: Any, key: str) -> MmalignError:
    """The error as it is, where it is one of this project; else a DataError that names the data set and the place."""
    if isinstance(error, MmalignError):
        return error
    kind = type(dataset)
    where = raised_at(error, kind.__module__)
    return DataError(
        f"data set {kind.__qualname__} (of {kind.__module__}), {key}: {type(error).__name__}: {error}{where}",
        hint="Reading or encoding this example raised. MMALIGN_DEBUG=1 shows the whole way there.",
    )


def carry(failure: MmalignError, error: Exception) -> Carried:
    text = "".join(traceback.format_exception(error))
    return Carried(type(failure), failure.message, failure.hint, text)


def raise_carried(carried: Carried) -> NoReturn:
    raise carried.kind(carried.message, hint=carried.hint) from RuntimeError(f"in a worker:\n{carried.traceback}")
