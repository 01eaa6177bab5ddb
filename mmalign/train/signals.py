"""Ctrl-C and SIGTERM as a request to stop: the loop saves at the next step boundary and says how to go on.

    with StopRequest() as stop:
        for ...:
            step()
            if stop.signal: save(); break
        with stop.interrupts():        # work without state of its own: leave it at once
            evaluate()

A second signal ends the process in the ordinary way.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from mmalign.errors import MmalignError

if TYPE_CHECKING:
    from mmalign.train.distributed import Processes


class Interrupted(Exception):
    """Raised out of `interrupts()` by a signal, and by the loop once it has saved. `signum`: which; `folder`: of the
    run that can be gone on with, on the main process."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.folder: Path | None = None


class StopRequest:
    """`signal` is None until SIGINT or SIGTERM arrives. `failed_together`: all processes raise the same error."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.failed_together = False
        self._immediate = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Within, a signal raises Interrupted at once."""
        if self.signal is not None:
            raise Interrupted(self.signal)
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signal = signum
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._immediate:
            raise Interrupted(signum)


def interruptible(stop: StopRequest, processes: "Processes", work: Callable[[], Any]) -> Any:
    """What `work` returns, which waits for no other process; where a signal came to one, or one failed, all raise
    Interrupted, or the same MmalignError."""
    signum, failure, found = None, None, []
    try:
        with stop.interrupts():
            found.append(work())
    except Interrupted as interruption:
        signum = interruption.signum
    except MmalignError as error:
        if processes.world_size == 1:
            raise
        failure = error
    told = None if failure is None else (type(failure), failure.message, failure.hint)
    states = processes.gather_objects((signum, told))
    signals = [s for s, _ in states if s is not None]
    if signals:
        raise Interrupted(signals[0])
    failed = [(rank, told) for rank, (_, told) in enumerate(states) if told is not None]
    if failed:
        stop.failed_together = True
        rank, (kind, message, hint) = failed[0]
        raise kind(f"process {rank}: {message}", hint=hint) from failure
    return found[0]
