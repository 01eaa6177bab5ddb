"""Batches for training, endless and resumable at any step; and one pass in order for evaluation.

    with Stream(dataset, encoder, Order(len(dataset), seed), batch_size=256, num_workers=2, start_step=120) as stream:
        for step, batch in stream: ...          # step 120, 121, ...
    for batch in Sweep(dataset, encoder, batch_size=64): ...

The content of a batch depends only on (order, step, batch_size): not on workers, nor on processes (each takes a
contiguous slice of the same global batch), nor on where the run was resumed. An unreadable sample is counted and
replaced by another, which (seed, epoch, index) determines. torch's global random state is never used.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch.utils.data import DataLoader, get_worker_info

from mmalign.contract.batch import Batch
from mmalign.contract.dataset import Dataset
from mmalign.data.collate import Encoder, collate
from mmalign.data.failures import Carried, Limit, carry, failure_of, raise_carried
from mmalign.data.order import Order
from mmalign.errors import BadSample, UsageError
from mmalign.hashing import stable_hash

_MAX_SUBSTITUTES = 16

Bad = tuple[str, str]  # (key, reason)


class Stream:
    """Iterates (step, Batch) without end. `batch_size` is global; a batch holds this process's share of it.

    `bad` maps the key of each unreadable sample met so far in this process to the reason. When their share exceeds
    `max_bad`, the next batch raises DataError; the share is taken of the examples drawn, but of at least 1,000 or of
    the whole data set.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        order: Order,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        start_step: int = 0,
        max_bad: float = 0.01,
        prefetch: int = 2,
        bad: Mapping[str, str] | None = None,
    ) -> None:
        if batch_size % world_size:
            raise UsageError(
                f"batch size {batch_size} is not a multiple of {world_size} processes",
                hint="Choose a batch size that the number of processes divides.",
            )
        self.bad: dict[str, str] = dict(bad or {})
        self._step = start_step
        self._share = batch_size // world_size
        self._limit = Limit(max_bad, len(dataset))
        self._place = (order, batch_size, rank * self._share, self._share)
        self._rows = _Rows(dataset, encoder, train=True, seed=order.seed)
        self._workers = (num_workers, prefetch)
        self._batches: Iterator[_Loaded] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Batch]:
        if self._batches is None:
            self._batches = _load(self._rows, _Batches(*self._place, self._step), *self._workers)
        try:
            loaded = _checked(next(self._batches))
        except BaseException:
            # A signal handler that raises leaves the pipes to the workers in mid-message, and the next read would wait
            # for ever. So the workers are ended; a later call starts new ones at this very step.
            self._batches = None
            raise
        self.bad.update(loaded.bad)
        step, self._step = self._step, self._step + 1
        self._limit.check(self.bad, self._step * self._share, exhausted=loaded.batch is None)
        assert loaded.batch is not None  # `check` raised
        return step, loaded.batch

    def next_batch(self, stream: str) -> Batch:
        """The next batch, labelled with the name of the stream."""
        return next(self)[1].of_stream(stream)

    def close(self) -> None:
        """End the workers; a later `next` starts new ones where it left off."""
        self._batches = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Sweep:
    """Iterates the examples once, in order, without augmentation; stops after `limit` examples.

    A process takes its contiguous part. Unreadable samples are left out and listed in `bad`; past `max_bad` it raises
    DataError. Batches may be shorter than `batch_size`.
    """

    def __init__(
        self,
        dataset: Dataset,
        encoder: Encoder,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        limit: int | None = None,
        max_bad: float = 0.01,
        prefetch: int = 2,
    ) -> None:
        size = len(dataset) if limit is None else min(limit, len(dataset))
        self.bad: dict[str, str] = {}
        self._range = range(size * rank // world_size, size * (rank + 1) // world_size)
        self._batch_size = batch_size
        self._rows = _Rows(dataset, encoder, train=False, seed=0)
        self._workers = (num_workers, prefetch)
        self._limit = Limit(max_bad, size)

    def __iter__(self) -> Iterator[Batch]:
        indices = [(0, index) for index in self._range]
        batches = [indices[i : i + self._batch_size] for i in range(0, len(indices), self._batch_size)]
        drawn = 0
        for wanted, loaded in zip(batches, _load(self._rows, batches, *self._workers), strict=True):
            self.bad.update(_checked(loaded).bad)
            drawn += len(wanted)
            self._limit.check(self.bad, drawn, exhausted=False)
            if loaded.batch is not None and len(loaded.batch):
                yield loaded.batch


class Draws:
    """Iterates the examples that `Stream` draws at the given positions, (epoch, index) each, once and in that order.

    `bad` maps the keys of unreadable samples, which were replaced by others, to the reason. A position without a
    readable substitute is left out.
    """

    def __init__(
        self, dataset: Dataset, encoder: Encoder, positions: Sequence[tuple[int, int]], batch_size: int, seed: int
    ) -> None:
        self.bad: dict[str, str] = {}
        self._rows = _Rows(dataset, encoder, train=True, seed=seed)
        self._batches = [list(positions[i : i + batch_size]) for i in range(0, len(positions), batch_size)]

    def __iter__(self) -> Iterator[Batch]:
        for loaded in _load(self._rows, self._batches, num_workers=0, prefetch=0):
            self.bad.update(loaded.bad)
            if loaded.batch is not None:
                yield loaded.batch


class _Loaded(NamedTuple):
    """A worker's message: a batch (None where no substitute was readable either) and the bad samples met."""

    batch: Batch | None
    bad: list[Bad]
    failure: Carried | None = None


class _Row(NamedTuple):
    values: dict[str, Any] | None
    bad: list[Bad]
    failure: Carried | None = None  # an error in a worker, which ends the run


class _Rows:
    """The map-style data set that torch's loader indexes by (epoch, index)."""

    def __init__(self, dataset: Dataset, encoder: Encoder, train: bool, seed: int) -> None:
        self._dataset = dataset
        self._encoder = encoder
        self._train = train
        self._seed = seed

    def __getitem__(self, position: tuple[int, int]) -> _Row:
        """Encode one example; in training, replace an unreadable one."""
        epoch, index = position
        bad: list[Bad] = []
        for attempt in range(1 + _MAX_SUBSTITUTES * self._train):
            if attempt:
                index = stable_hash("substitute", self._seed, *position, attempt) % len(self._dataset)
            key = f"example {index}"
            try:
                example = self._dataset[index]
                key = example.key
                return _Row(self._encoder.encode(example, epoch, index, self._train), bad)
            except BadSample as error:
                bad.append((key, str(error)))
            except Exception as error:  # a plugin's code, which may raise anything
                failure = failure_of(error, self._dataset, key)
                if get_worker_info() is None:
                    raise failure from error
                return _Row(None, bad, carry(failure, error))
        return _Row(None, bad)


class _Batches:
    """The batch sampler: this process's slice of every global batch from `start_step` on, without end."""

    def __init__(self, order: Order, batch_size: int, offset: int, share: int, start_step: int) -> None:
        self._order = order
        self._batch_size = batch_size
        self._offset = offset
        self._share = share
        self._start_step = start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self._start_step
        while True:
            start = step * self._batch_size + self._offset
            yield self._order.indices(start, start + self._share)
            step += 1


class _Join:
    """The collate function: joins rows to a batch. In training every row must be readable."""

    def __init__(self, whole: bool) -> None:
        self._whole = whole

    def __call__(self, rows: Sequence[_Row]) -> _Loaded:
        bad = [item for row in rows for item in row.bad]
        if failures := [row.failure for row in rows if row.failure is not None]:
            return _Loaded(None, bad, failures[0])
        good = [row.values for row in rows if row.values is not None]
        return _Loaded(None if self._whole and len(good) < len(rows) else collate(good), bad)


def _load(rows: _Rows, batches: Any, num_workers: int, prefetch: int) -> Iterator[_Loaded]:
    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]  # the loader only indexes it, because it has a batch sampler
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_Join(whole=rows._train),
        worker_init_fn=_start_worker,
        prefetch_factor=prefetch if num_workers else None,
        generator=torch.Generator(),  # else the loader draws its base seed from the global one
    )
    # A signal between a worker's start and `_start_worker` would end it, so workers start with both blocked.
    with _blocked(signal.SIGINT, signal.SIGTERM) if num_workers else nullcontext():
        return iter(loader)


def _checked(loaded: _Loaded) -> _Loaded:
    if loaded.failure is not None:
        raise_carried(loaded.failure)
    return loaded


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    if sys.platform != "linux":  # as in `_start_worker`
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker_id: int) -> None:
    """Workers ignore Ctrl-C and a batch system's SIGTERM, which the main process handles by saving; they end when it
    does."""
    parent = multiprocessing.parent_process()
    if multiprocessing.get_start_method() != "forkserver" and parent is not None and os.getppid() != parent.pid:
        os._exit(0)  # the parent is dead already; torch's watchdog looks up the parent only now and would not notice
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere the sender of a signal is unknown
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    """End on a SIGTERM from the parent, which exiting processes send their children, and ignore all others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
