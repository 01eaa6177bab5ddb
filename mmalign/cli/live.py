"""The status line that a terminal shows during a run, redrawn in place below the permanent lines.

    with run_display(app) as display:            # permanent lines only, if stderr is no terminal that can redraw
        launch.start(plan, catalog, folder=None, device="auto", say=display)

    training ━━━━━━━━━━━━━━━━━━────────────  120/1000  loss 2.31  accuracy 0.42  31 examples/s  4 min left

The line never wraps: parts that do not fit the width are left out, the least important first.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmalign.cli.app import App
from mmalign.display import Display, Status
from mmalign.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

_BAR, _WIDEST_BAR, _NARROWEST_BAR = ("━", "─"), 40, 8
_OF_STEPS = ("training", "rollout")  # stages in which steps redraw the line, and data workers may start
_DRAW_EVERY = 0.1  # seconds between redraws by steps, at least
_TICK = 0.5  # seconds between redraws by the clock


def can_draw() -> bool:
    """Whether stderr is a terminal that can redraw a line, and the user allows it."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "") in ("", "dumb")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # processes, which all write to this terminal
    return sys.stderr.isatty() and not plain and not several


@contextmanager
def run_display(app: App) -> Iterator[Display]:
    """A display, with a live line if the terminal can draw one. However the run ends, the line is removed."""
    if app.quiet or not can_draw():
        yield Display(app.say)
        return
    line = LiveLine()
    try:
        yield Display(line.say, line)
    finally:
        line.close()


class LiveLine:
    """A `Screen`; `say` prints a permanent line above the live line. The line appears with the first status."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._lock = threading.RLock()
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._status, self._began, self._drawn = Status(), time.monotonic(), 0.0
        self._stopping: Callable[[], bool] = lambda: False
        self._clock: _Clock | None = None
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            vertical_overflow="crop",
            get_renderable=self._line,
        )

    def show(self, status: Status) -> None:
        """Draw a new stage at once, otherwise at most ten times a second."""
        with self._lock:
            now = time.monotonic()
            is_new_stage = status.stage != self._status.stage
            self._began = now if is_new_stage else self._began
            self._status = status
            if not self._live.is_started:
                self._live.start()
                self._console.show_cursor(True)  # a killed process could not show the cursor again
            # The stages of a step alternate in every step, so they do not count as new.
            if now - self._drawn >= _DRAW_EVERY or (is_new_stage and status.stage not in _OF_STEPS):
                self._draw()
        self._tick(status.stage not in _OF_STEPS)

    def heed(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping

    def say(self, line: str) -> None:
        from rich.text import Text

        with self._lock:
            text = Text.from_ansi(printable(line, lines=True))
            self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        """Remove the line."""
        self._tick(False)
        with self._lock:
            if self._live.is_started:
                self._live.stop()

    def _draw(self) -> None:
        with self._lock:
            self._drawn = time.monotonic()
            self._live.refresh()

    def _tick(self, wanted: bool) -> None:
        """Start or stop the clock that draws the line in stages without steps. It must not run while data workers may
        start: if its thread held a lock during a fork, the lock would stay locked in the forked process."""
        if wanted and self._clock is None:
            self._clock = _Clock(self._draw)
        elif not wanted and self._clock is not None:
            self._clock.stop()
            self._clock = None

    def _line(self) -> "Text":
        with self._lock:
            status, seconds = self._status, time.monotonic() - self._began
        # The last column stays empty, because some terminals wrap when a character is written there.
        return compose(status, self._console.width - 1, seconds, stopping=self._stopping())


class _Clock:
    """Calls `draw` twice a second in a separate thread until `stop`."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        self._done, self._draw = threading.Event(), draw
        self._thread = threading.Thread(target=self._run, name="mmalign-clock", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_TICK):
            self._draw()


def compose(status: Status, width: int, seconds: float, *, stopping: bool = False) -> "Text":
    """The status in at most `width` columns. seconds: since the stage began; shown in stages without steps."""
    from rich.text import Text

    stage = "stopping after this step" if stopping and status.steps else status.stage or "working"
    done, total = (status.done, status.total) if status.total else (status.step, status.steps)
    waits = status.stage not in _OF_STEPS or not status.steps
    # (rank, text, style) in the order of the line; rank 0 is the most important
    parts = [(0, stage, "bold")]
    if total:
        parts.append((1, f"{done:,}/{total:,}", ""))
    if waits:
        parts.append((2, f"{seconds:.0f} s", "dim"))
    if not status.total and not waits:
        ranks = (3, 5, 6)
        figures = zip(ranks, status.figures.items(), strict=False)
        parts += [(rank, f"{name.replace('_', ' ')} {value}", "cyan") for rank, (name, value) in figures]
        parts += [(7, status.rate, "dim"), (4, status.left, "")]
    kept = _fitting(parts, width)
    line = Text(no_wrap=True, overflow="crop", end="")
    room = width - sum(len(text) for _, text, _ in kept) - 2 * (len(kept) - 1)
    for index, (_, text, style) in enumerate(kept):
        line.append("  " if index else "", "").append(text, style)
        if not index and total and room - 1 >= _NARROWEST_BAR:
            line.append(" ").append_text(_bar(done / total, min(_WIDEST_BAR, room - 1)))
    line.truncate(width)
    return line


def _fitting(parts: list[tuple[int, str, str]], width: int) -> list[tuple[int, str, str]]:
    """The most important parts that fit `width` columns, in their original order."""
    kept, room = set(), width + 2
    for rank, text, _ in sorted(parts):
        if len(text) + 2 > room:
            break
        room -= len(text) + 2
        kept.add(rank)
    return [part for part in parts if part[0] in kept] or parts[:1]


def _bar(share: float, width: int) -> "Text":
    from rich.text import Text

    full = round(max(0.0, min(1.0, share)) * width)
    return Text(_BAR[0] * full, "green").append(_BAR[1] * (width - full), "dim")
