"""Errors a user can act on. Each carries the fix, and the exit code that the command line returns for it.

raise UsageError("unknown objective 'dpoo'", hint="Did you mean dpo? mmalign list objectives")
"""

import difflib
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

OWN_FILE = "mmalign_function_"  # begins the name of a module made of a user's file
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_DATA, EXIT_NON_FINITE = 0, 1, 2, 3, 4


class MmalignError(Exception):
    """Something the user can mend. `message`: what was asked and what is wrong; `hint`: what to do next."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint


class UsageError(MmalignError):
    """A wrong name, option, config key or combination (exit 2)."""

    exit_code = EXIT_USAGE


class IncompatibleError(UsageError):
    """A backbone lacks what an objective or command asks for (exit 2)."""


class DataError(MmalignError):
    """Input data that cannot be used (exit 3)."""

    exit_code = EXIT_DATA


class WrongKindError(DataError):
    """Data of another example kind than what was asked for. looks_like: that kind."""

    def __init__(self, message: str, *, looks_like: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.looks_like = looks_like


class BadSample(DataError):
    """One sample that cannot be used; callers count it and go on, or stop past a limit."""


class NonFiniteError(MmalignError):
    """A loss, gradient or measurement became NaN or infinite (exit 4)."""

    exit_code = EXIT_NON_FINITE


class RewardError(MmalignError):
    """A reward failed, or what it gave is no score (exit 1)."""


class NonFiniteRewardError(RewardError):
    """A reward gave NaN or infinity (exit 4)."""

    exit_code = EXIT_NON_FINITE


class EnvironmentFailure(MmalignError):
    """An environment raised, hung, died, or answered with something else than a turn (exit 1)."""


class EngineError(MmalignError):
    """A sampling engine raised, or what it drew is no answer (exit 1)."""


class ShortageError(MmalignError):
    """There is too little memory for a run as it is (exit 1)."""


class CheckpointError(MmalignError):
    """A checkpoint or model folder is missing, damaged or of another run (exit 1)."""


class PluginError(MmalignError):
    """A plugin cannot be used (exit 1)."""


class Raised(NamedTuple):
    """Where an exception came from. file: its path; line: from 1; package: the top one of its module."""

    file: str
    line: int
    function: str
    package: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


def raised_in(error: BaseException, is_meant: Callable[[str], bool] = lambda package: True) -> Raised | None:
    """The innermost place of an exception in a package that is meant; None where it passed through none."""
    raised = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if is_meant(package):
            raised = Raised(frame.f_code.co_filename, line, frame.f_code.co_name, package)
    return raised


def raised_at(error: BaseException, target: str = "") -> str:
    """ " (mine.py:17)": the innermost place that an exception came from, or an empty text.

    target: `package.module:Class` of the plugin's that was called; a place in its package, or in a user's own file that
    it loaded, is preferred to one in a library that it calls.
    """
    package = target.partition(":")[0].partition(".")[0]
    own = raised_in(error, lambda name: name == package or name.startswith(OWN_FILE)) if package else None
    raised = own or raised_in(error)
    return f" ({Path(raised.file).name}:{raised.line})" if raised else ""


def did_you_mean(asked: str, known: Iterable[str]) -> str:
    """Return "Did you mean a, b?" for the nearest of `known`, or "" where nothing is near."""
    near = difflib.get_close_matches(asked, sorted(set(known)), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}?" if near else ""
