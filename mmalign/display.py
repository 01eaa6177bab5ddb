"""Output of a run: permanent lines, and the current status, which a terminal shows in one line that is redrawn.

    display = Display(print)                      # permanent lines only, as in a log
    display("data opened")
    display.stage("evaluating")                   # writes nothing to a log
    display.training(120, 1000, {"loss": "2.31"}, "31 examples/s", "4 min left")

A screen draws the status: `mmalign.cli.live.LiveLine` on a terminal.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

Say = Callable[[str], None]


@dataclass(frozen=True)
class Status:
    """stage: name of the current activity. done, total: units of the stage; total 0 if it counts none. step, steps: of
    the run; steps 0 before the first. figures: name -> value, the most important first. rate, left: speed and remaining
    time, as text."""

    stage: str = ""
    done: int = 0
    total: int = 0
    step: int = 0
    steps: int = 0
    figures: Mapping[str, str] = field(default_factory=dict)
    rate: str = ""
    left: str = ""


class Screen(Protocol):
    """Shows the latest status until the next one."""

    def show(self, status: Status) -> None: ...

    def heed(self, stopping: Callable[[], bool]) -> None:
        """stopping: returns whether a stop was requested, so that the run stops after the current step."""
        ...


class Display:
    """Call it with a permanent line. screen: shows the status; None: the status is not shown."""

    def __init__(self, say: Say, screen: Screen | None = None) -> None:
        self._say, self._screen = say, screen
        self._status = Status()

    @property
    def live(self) -> bool:
        """Whether a screen shows each step, so that steps need no lines of their own."""
        return self._screen is not None

    def __call__(self, line: str) -> None:
        self._say(line)

    def begin(self, name: str) -> None:
        """A run begins with this stage; the status of an earlier run is cleared."""
        self._show(Status(name))

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        """Show a new stage. done, total: units of the stage; total 0 if it counts none."""
        self._show(replace(self._status, stage=name, done=done, total=total))

    def training(self, step: int, steps: int, figures: Mapping[str, str], rate: str, left: str) -> None:
        """Show that `step` of `steps` is done."""
        self._show(Status("training", 0, 0, step, steps, figures, rate, left))

    def heed(self, stopping: Callable[[], bool]) -> None:
        """See `Screen.heed`."""
        if self._screen is not None:
            self._screen.heed(stopping)

    def _show(self, status: Status) -> None:
        self._status = status
        if self._screen is not None:
            self._screen.show(status)


def display_of(say: Say) -> Display:
    """`say` itself if it is a display; else a display that prints permanent lines with `say`."""
    return say if isinstance(say, Display) else Display(say)


def terminal_width() -> int:
    """Columns of the terminal on stderr; 0 if stderr is a file or a pipe, where lines may have any length."""
    return os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
