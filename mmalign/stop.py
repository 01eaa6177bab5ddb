"""Ctrl-C and SIGTERM as a request to stop: the loop saves at the next step boundary and says how to go on.

    with StopRequest() as stop:
        for ...:
            step()
            if stop.signal: save(); break
        with stop.interrupts():        # work without state of its own: leave it at once
            evaluate()

A second signal ends the process in the ordinary way.

`Interrupted` is a BaseException, so `except Exception` lets it through. Some code swallows even that: extension modules
that import others, bare `except:`, `__del__` methods. An Interrupted that dies before anyone took it is raised again,
and `signal` remembers it. This module needs the standard library alone: `call_interruptibly` stands
before torch is imported.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

from mmalign.errors import MmalignError

_PAUSE = 0.01  # seconds until a swallowed Interrupted is raised again
_innermost: "StopRequest | None" = None  # of those whose handlers stand; signals are the process's, so this is too


class Interrupted(BaseException):
    """Raised by a signal out of `interrupts()`, or anywhere in a program that listens, and by the loop once it has
    saved. `signum`: which; `folder`: of the run that can be gone on with, on the main process; `told`: the user knows.
    """

    def __init__(self, signum: int, request: "StopRequest | None" = None) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.folder: Path | None = None
        self.told = False
        self._request = request

    def take(self) -> None:
        """The program ends because of it: it need not come again."""
        self._request = None

    def __del__(self) -> None:
        if self._request is not None:
            self._request._lost = True


class StopRequest:
    """`signal` is None until SIGINT or SIGTERM arrives. `failed_together`: all processes raise the same error."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.failed_together = False
        self._immediate = self._again = self._lost = False
        self._watch: threading.Thread | None = None
        self._previous: dict[int, Any] = {}
        self._outer: StopRequest | None = None

    def __enter__(self) -> Self:
        global _innermost
        if threading.current_thread() is threading.main_thread():
            self._outer, _innermost = _innermost, self
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._handle)
            if self._outer is not None and self.signal is None:
                self.signal = self._outer.signal  # it was swallowed while libraries were imported
        return self

    def __exit__(self, *_: object) -> None:
        global _innermost
        if not self._previous:
            return
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._outer is not None:
            self._outer.signal = self._outer.signal or self.signal
        _innermost, self._outer, self._previous = self._outer, None, {}

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Within, a signal raises Interrupted at once; one that came before does so here."""
        self._immediate = True
        try:
            if self.signal is not None:
                raise Interrupted(self.signal)
            yield
        finally:
            self._immediate = False

    def interrupts_alone(self, num_processes: int) -> contextlib.AbstractContextManager[None]:
        """`interrupts()` in a run of one process: several would wait for the one that leaves."""
        return self.interrupts() if num_processes == 1 else contextlib.nullcontext()

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Within `interrupts()`: a signal raises Interrupted only behind this block."""
        before, was, self._immediate = self.signal, self._immediate, False
        try:
            yield
        finally:
            self._immediate = was
        if was and self.signal is not None and before is None:
            raise Interrupted(self.signal)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is not None and not self._again:
            self._end_ordinarily(signum)
            return
        self._again, self.signal = False, signum
        if self._immediate:
            if frame is not None and frame.f_code is Interrupted.__del__.__code__:
                self._lost = True  # what is raised in a `__del__` goes no further
                return
            if self._watch is None:
                self._watch = threading.Thread(target=self._raise_again, daemon=True)
                self._watch.start()
            raise Interrupted(signum, self)

    def _raise_again(self) -> None:
        """While this request stands: where an Interrupted is gone, and the code that it was to end goes on."""
        while self._previous:
            time.sleep(_PAUSE)
            if self._lost and self._immediate and self.signal is not None:
                self._lost, self._again = False, True
                os.kill(os.getpid(), self.signal)

    def _end_ordinarily(self, signum: int) -> None:
        """What this signal did before anyone asked to stop by it."""
        outermost = self
        while outermost._outer is not None:
            outermost = outermost._outer
        for number, handler in outermost._previous.items():
            signal.signal(number, handler)
        signal.raise_signal(signum)


def call_interruptibly(work: Callable[[], int]) -> int:
    """The exit code of `work`. SIGINT and SIGTERM raise Interrupted in it, save where a StopRequest within has a better
    way; uncaught, it becomes the exit code that a shell gives a process which the signal ended."""
    try:
        with StopRequest() as program, program.interrupts():
            return work()
    except Interrupted as interruption:
        return exit_code(interruption)


def exit_code(interruption: Interrupted) -> int:
    """128 + the signal, once the user is told."""
    interruption.take()
    if not interruption.told:
        print(f"interrupted by {interruption}", file=sys.stderr, flush=True)
    return 128 + interruption.signum


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, no signal raises Interrupted; one that comes does so behind. For what must be done as a whole."""
    with contextlib.nullcontext() if _innermost is None else _innermost.held_back():
        yield


def interruption_behind(error: BaseException) -> Interrupted | None:
    """The Interrupted that an error was made of, as a library does which takes any failure for its own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, Interrupted):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def interruptible(stop: StopRequest, gather_objects: Callable[[Any], list[Any]], work: Callable[[], Any]) -> Any:
    """Return what `work` returns. `work` waits for no other process. Where a signal came to one process, or one failed,
    all raise Interrupted, or the same MmalignError.

    gather_objects: one value from each process, in rank order, on all.
    """
    signum, failure, results = None, None, []
    try:
        with stop.interrupts():
            results.append(work())
    except Interrupted as interruption:
        signum = interruption.signum
    except MmalignError as error:
        failure = error
    told = None if failure is None else (type(failure), failure.message, failure.hint)
    states = gather_objects((signum, told))
    signals = [s for s, _ in states if s is not None]
    if signals:
        raise Interrupted(signals[0])
    failed = [(rank, told) for rank, (_, told) in enumerate(states) if told is not None]
    if failed:
        if len(states) == 1 and failure is not None:
            raise failure
        stop.failed_together = True
        rank, (kind, message, hint) = failed[0]
        raise kind(f"process {rank}: {message}", hint=hint) from failure
    return results[0]
