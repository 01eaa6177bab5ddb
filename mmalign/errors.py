"""Errors that a user can fix. Each carries the fix and the exit code of the command line.

raise UsageError("unknown objective 'dpoo'", hint="Did you mean dpo? mmalign list objectives")
"""

import difflib
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

OWN_FILE = "mmalign_function_"  # prefix of the module name of a user's file
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_DATA, EXIT_NON_FINITE = 0, 1, 2, 3, 4


class MmalignError(Exception):
    """A problem that the user can fix. `message`: what was asked and what is wrong; `hint`: what to do next."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint


class UsageError(MmalignError):
    """A wrong name, option, config key or combination (exit 2)."""

    exit_code = EXIT_USAGE


class IncompatibleError(UsageError):
    """A backbone lacks capabilities that an objective or command needs (exit 2)."""


class DataError(MmalignError):
    """Input data that cannot be used (exit 3)."""

    exit_code = EXIT_DATA


class WrongKindError(DataError):
    """The data has examples of another kind than requested. looks_like: the kind that they seem to have."""

    def __init__(self, message: str, *, looks_like: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.looks_like = looks_like


class BadSample(DataError):
    """One sample that cannot be used; callers count such samples and skip them, up to a limit."""


class NonFiniteError(MmalignError):
    """A loss, gradient or measurement became NaN or infinite (exit 4)."""

    exit_code = EXIT_NON_FINITE


class RewardError(MmalignError):
    """A reward failed, or its result is not a score (exit 1)."""


class NonFiniteRewardError(RewardError):
    """A reward returned NaN or infinity (exit 4)."""

    exit_code = EXIT_NON_FINITE


class EnvironmentFailure(MmalignError):
    """An environment raised, hung, died, or returned something that is not a turn (exit 1)."""


class EngineError(MmalignError):
    """A sampling engine raised, or its result is not an answer (exit 1)."""


class ShortageError(MmalignError):
    """A run needs more memory than there is (exit 1)."""


class CheckpointError(MmalignError):
    """A checkpoint or model folder is missing, damaged or from another run (exit 1)."""


class PluginError(MmalignError):
    """A plugin cannot be used (exit 1)."""


class Raised(NamedTuple):
    """The place where an exception was raised. file: path; line: from 1; package: top-level package of the module."""

    file: str
    line: int
    function: str
    package: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


def raised_in(error: BaseException, is_meant: Callable[[str], bool] = lambda package: True) -> Raised | None:
    """The innermost frame of the traceback whose package satisfies `is_meant`; None if there is none."""
    raised = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if is_meant(package):
            raised = Raised(frame.f_code.co_filename, line, frame.f_code.co_name, package)
    return raised


def raised_at(error: BaseException, target: str = "") -> str:
    """The file and line where an exception was raised, as " (mine.py:17)"; "" if unknown.

    target: `package.module:Class` of the plugin that was called. Frames of its package, or of a user's file that it
    loaded, are preferred to frames of the libraries that it calls.
    """
    package = target.partition(":")[0].partition(".")[0]
    own = raised_in(error, lambda name: name == package or name.startswith(OWN_FILE)) if package else None
    raised = own or raised_in(error)
    return f" ({Path(raised.file).name}:{raised.line})" if raised else ""


def did_you_mean(asked: str, known: Iterable[str]) -> str:
    """Return "Did you mean a or b?" with the closest of `known`, or "" if none is close."""
    near = difflib.get_close_matches(asked, sorted(set(known)), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}?" if near else ""
