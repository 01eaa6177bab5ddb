"""How a run talks: lines that stay, and what it is doing now, which a terminal shows in one line that is redrawn.

    display = Display(print)                      # lines alone, as in a log
    display("data opened")
    display.stage("evaluating")                   # nothing in a log
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
    """stage: what is being done; done, total: of its own units, total 0 where none are counted; step, steps: of the
    run, steps 0 before the first; figures: name -> value, the most important first; rate, left: as text."""

    stage: str = ""
    done: int = 0
    total: int = 0
    step: int = 0
    steps: int = 0
    figures: Mapping[str, str] = field(default_factory=dict)
    rate: str = ""
    left: str = ""


class Screen(Protocol):
    """Draws the newest status until the next one comes."""

    def show(self, status: Status) -> None: ...

    def heed(self, stopping: Callable[[], bool]) -> None:
        """stopping: whether the run was asked to stop, and will after the step under way."""
        ...


class Display:
    """Call it with a line that stays. screen: shows the status; None: nobody sees it."""

    def __init__(self, say: Say, screen: Screen | None = None) -> None:
        self._say, self._screen = say, screen
        self._status = Status()

    @property
    def live(self) -> bool:
        """Whether each step is seen without a line of its own."""
        return self._screen is not None

    def __call__(self, line: str) -> None:
        self._say(line)

    def begin(self, name: str) -> None:
        """A run begins, with this stage: what was shown of another one is gone."""
        self._show(Status(name))

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        """What is being done from now on; total: how many of its units there are, where they are counted."""
        self._show(replace(self._status, stage=name, done=done, total=total))

    def training(self, step: int, steps: int, figures: Mapping[str, str], rate: str, left: str) -> None:
        """The run stands behind `step`."""
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
    """`say` itself where it is a display, else one of its lines alone."""
    return say if isinstance(say, Display) else Display(say)


def terminal_width() -> int:
    """Columns of the terminal that a run talks to; 0 where that is a file or a pipe, in which no line is too long."""
    return os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
