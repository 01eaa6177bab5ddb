"""Ctrl-C and SIGTERM request a stop: the training loop saves at the next step boundary and says how to continue.

    with StopRequest() as stop:
        for ...:
            step()
            if stop.signal: save(); break
        with stop.interrupts():        # work without state to save: a signal ends it at once
            evaluate()

A second signal has its ordinary effect, which ends the process.

`Interrupted` is a BaseException, so `except Exception` lets it through. Some code swallows even that: extension modules
that import others, bare `except:`, `__del__` methods. An Interrupted that is deleted before `take` is called is raised
again, and `signal` keeps its number. This module imports only the standard library, because `call_interruptibly` runs
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
_innermost: "StopRequest | None" = None  # whose handlers are installed; one for the process, as signals are


class Interrupted(BaseException):
    """Raised by a signal inside `interrupts()`, and by the training loop after it has saved.

    signum: of the signal. folder: on the main process, the folder of the run that can be resumed. told: the user was
    told.
    """

    def __init__(self, signum: int, request: "StopRequest | None" = None) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.folder: Path | None = None
        self.told = False
        self._request = request

    def take(self) -> None:
        """The program ends because of this exception, so it need not be raised again."""
        self._request = None

    def __del__(self) -> None:
        if self._request is not None:
            self._request._lost = True


class StopRequest:
    """signal: None until SIGINT or SIGTERM arrives. failed_together: all processes raise the same error."""

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
        """Inside, a signal raises Interrupted at once; an earlier signal raises it on entry."""
        self._immediate = True
        try:
            if self.signal is not None:
                raise Interrupted(self.signal)
            yield
        finally:
            self._immediate = False

    def interrupts_alone(self, num_processes: int) -> contextlib.AbstractContextManager[None]:
        """`interrupts()` in a run of one process; of several, the others would wait for the interrupted one."""
        return self.interrupts() if num_processes == 1 else contextlib.nullcontext()

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Inside `interrupts()`: a signal raises Interrupted only after this block."""
        signal_before, was_immediate, self._immediate = self.signal, self._immediate, False
        try:
            yield
        finally:
            self._immediate = was_immediate
        if was_immediate and self.signal is not None and signal_before is None:
            raise Interrupted(self.signal)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signal is not None and not self._again:
            self._end_ordinarily(signum)
            return
        self._again, self.signal = False, signum
        if self._immediate:
            if frame is not None and frame.f_code is Interrupted.__del__.__code__:
                self._lost = True  # Python ignores exceptions in `__del__`
                return
            if self._watch is None:
                self._watch = threading.Thread(target=self._raise_again, daemon=True)
                self._watch.start()
            raise Interrupted(signum, self)

    def _raise_again(self) -> None:
        """Until this request exits: send the signal again when an Interrupted was swallowed and the code goes on."""
        while self._previous:
            time.sleep(_PAUSE)
            if self._lost and self._immediate and self.signal is not None:
                self._lost, self._again = False, True
                os.kill(os.getpid(), self.signal)

    def _end_ordinarily(self, signum: int) -> None:
        """Restore the handlers from before all stop requests, and raise the signal."""
        outermost = self
        while outermost._outer is not None:
            outermost = outermost._outer
        for number, handler in outermost._previous.items():
            signal.signal(number, handler)
        signal.raise_signal(signum)


def call_interruptibly(work: Callable[[], int]) -> int:
    """Return the exit code of `work`. SIGINT and SIGTERM raise Interrupted in it, unless a StopRequest inside handles
    them. An uncaught Interrupted gives the exit code of a process that the signal ended, as shells report it."""
    try:
        with StopRequest() as program, program.interrupts():
            return work()
    except Interrupted as interruption:
        return exit_code(interruption)


def exit_code(interruption: Interrupted) -> int:
    """Tell the user about the signal, unless that is done; returns 128 + its number."""
    interruption.take()
    if not interruption.told:
        print(f"interrupted by {interruption}", file=sys.stderr, flush=True)
    return 128 + interruption.signum


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, no signal raises Interrupted; a signal raises it after the block. For work that must be complete."""
    with contextlib.nullcontext() if _innermost is None else _innermost.held_back():
        yield


def interruption_behind(error: BaseException) -> Interrupted | None:
    """The Interrupted in an error's chain of causes, because some libraries turn any exception into their own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, Interrupted):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def interruptible(stop: StopRequest, gather_objects: Callable[[Any], list[Any]], work: Callable[[], Any]) -> Any:
    """Return the result of `work`, which must not wait for another process. If one process gets a signal, all raise
    Interrupted; if one raises a MmalignError, all raise the same.

    gather_objects: returns the value of each process, in rank order, on all processes.
    """
    signum, failure, results = None, None, []
    try:
        with stop.interrupts():
            results.append(work())
    except Interrupted as interruption:
        signum = interruption.signum
    except MmalignError as error:
        failure = error
    description = None if failure is None else (type(failure), failure.message, failure.hint)
    states = gather_objects((signum, description))
    signals = [s for s, _ in states if s is not None]
    if signals:
        raise Interrupted(signals[0])
    failed = [(rank, described) for rank, (_, described) in enumerate(states) if described is not None]
    if failed:
        if len(states) == 1 and failure is not None:
            raise failure
        stop.failed_together = True
        rank, (kind, message, hint) = failed[0]
        raise kind(f"process {rank}: {message}", hint=hint) from failure
    return results[0]
