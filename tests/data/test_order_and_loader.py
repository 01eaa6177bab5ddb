"""The order is a pure function; workers, processes and resuming change nothing; bad samples are counted."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import pytest
import torch

from mmalign.contract.batch import Ragged
from mmalign.contract.examples import ImageLabel, ImageRef, ImageText, Keep, Kept, Prompt, Text, Turns
from mmalign.data.collate import Encoder, collate, columns_of
from mmalign.data.loader import Stream, Sweep
from mmalign.data.order import Order
from mmalign.errors import DataError, PluginError, UsageError
from mmalign.hashing import stable_hash
from tests.support.data_samples import Pictures, TinyProcessor
from tests.support.project import ROOT


def encoder(seed: int = 0) -> Encoder:
    return Encoder(TinyProcessor(), ImageText, seed)


def batches(steps: int, size: int = 10, broken: tuple[int, ...] = (), **options) -> list:
    dataset = Pictures(size, broken)
    with Stream(dataset, encoder(), Order(size, 7), **{"batch_size": 8, "max_bad": 0.5, **options}) as stream:
        return list(islice(stream, steps))


def same(a, b) -> bool:
    return (
        a["key"] == b["key"] and torch.equal(a["image"], b["image"]) and torch.equal(a["text"].values, b["text"].values)
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_each_epoch_is_a_permutation(size: int) -> None:
    order = Order(size, seed=3)
    for epoch in range(3):
        pairs = order.indices(epoch * size, (epoch + 1) * size)
        assert {e for e, _ in pairs} == {epoch}
        assert sorted(index for _, index in pairs) == list(range(size))


def test_the_order_is_the_same_however_it_is_cut() -> None:
    order = Order(37, seed=1)
    whole = order.indices(0, 200)
    assert [pair for start in range(0, 200, 16) for pair in order.indices(start, min(start + 16, 200))] == whole
    assert order.indices(90, 120) == whole[90:120]
    assert whole[:37] != [(0, index) for _, index in whole[37:74]]
    assert Order(37, seed=2).indices(0, 37) != whole[:37]


def test_the_order_is_stable_across_versions() -> None:
    assert [index for _, index in Order(10, 0).indices(0, 10)] == [0, 3, 2, 1, 4, 8, 7, 5, 6, 9]
    assert Order(10**12, 0).indices(10**12 - 1, 10**12 + 1) == [(0, 575680610555), (1, 495719502993)]


def test_the_order_mixes_well() -> None:
    """Over 600 seeds each of the 24 orders of four examples comes up about 25 times."""
    counts = Counter(tuple(index for _, index in Order(4, seed).indices(0, 4)) for seed in range(600))
    assert len(counts) == 24
    assert sum((count - 25) ** 2 / 25 for count in counts.values()) < 50  # chi-square, 23 degrees: p = 0.001 at 49.7
    first = torch.tensor([index for _, index in Order(5000, 0).indices(0, 5000)], dtype=torch.float64)
    neighbours = torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1]
    assert abs(neighbours) < 0.05


def test_workers_change_nothing() -> None:
    plain = batches(5)
    for workers in (1, 2):
        other = batches(5, num_workers=workers)
        assert [step for step, _ in other] == list(range(5))
        assert all(same(a, b) for (_, a), (_, b) in zip(plain, other, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_one_global_order(world: int) -> None:
    whole = batches(4)
    parts = [batches(4, rank=rank, world_size=world) for rank in range(world)]
    for step in range(4):
        keys = sum((parts[rank][step][1]["key"] for rank in range(world)), ())
        assert keys == whole[step][1]["key"]
        assert torch.equal(torch.cat([parts[rank][step][1]["image"] for rank in range(world)]), whole[step][1]["image"])


def test_resuming_at_every_step_gives_the_same_batches() -> None:
    whole = batches(12, broken=(3, 4))
    for start in range(12):
        rest = batches(12 - start, broken=(3, 4), start_step=start)
        assert [step for step, _ in rest] == list(range(start, 12))
        assert all(same(a, b) for (_, a), (_, b) in zip(whole[start:], rest, strict=True))


def test_a_stream_goes_on_after_an_exception_inside_a_fetch_and_after_close() -> None:
    class Interrupted(Pictures):
        """Raises once, as a signal handler would."""

        raised = False

        def __getitem__(self, index: int) -> ImageText:
            if index == 6 and not self.raised:
                self.raised = True
                raise KeyboardInterrupt
            return super().__getitem__(index)

    stream = Stream(Interrupted(10), encoder(), Order(10, 7), 8)
    got = []
    while len(got) < 5:
        with contextlib.suppress(KeyboardInterrupt):
            got.append(next(stream))
        if len(got) == 3:
            stream.close()
    assert all(same(a, b) and step == other for (step, a), (other, b) in zip(got, batches(5), strict=True))


def test_the_global_random_state_is_untouched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    batches(2)
    batches(2, num_workers=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_changes_with_the_epoch_and_not_in_a_sweep() -> None:
    example = Pictures(4)[1]
    rows = [encoder().encode(example, epoch, 1, True)["image"] for epoch in (0, 1, 0)]
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])
    plain = [encoder(seed).encode(example, 0, 1, False)["image"] for seed in (0, 1)]
    assert torch.equal(plain[0], plain[1])


def test_bad_samples_are_replaced_counted_and_the_same_everywhere() -> None:
    dataset = Pictures(20, broken=(2, 5))
    keys = []
    for workers in (0, 2):
        with Stream(dataset, encoder(), Order(20, 7), 10, num_workers=workers, max_bad=0.1) as stream:
            got = [batch["key"] for _, batch in islice(stream, 4)]
        assert sorted(stream.bad) == ["k2", "k5"]
        assert all("2.png" in stream.bad["k2"] and len(batch) == 10 for batch in got)
        assert not {"k2", "k5"} & {key for batch in got for key in batch}
        keys.append(got)
    assert keys[0] == keys[1]


def test_too_many_bad_samples_end_the_run_naming_them() -> None:
    with pytest.raises(DataError, match=r"data.max_bad=0.05 allows 1 of 20") as caught:
        batches(4, size=20, broken=(2, 5), max_bad=0.05)
    assert "2.png" in str(caught.value) and "5.png" in str(caught.value) and caught.value.hint
    with pytest.raises(DataError, match="10 unreadable"):
        batches(4, broken=tuple(range(10)), max_bad=1.0)


def test_a_share_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="not a multiple of 3"):
        batches(1, world_size=3)
    with pytest.raises(DataError, match="empty"):
        Order(0, 0)


def test_a_sweep_sees_every_example_once_over_all_processes() -> None:
    dataset = Pictures(11, broken=(4,))
    keys, bad = [], {}
    for rank in range(3):
        sweep = Sweep(dataset, encoder(), 2, rank=rank, world_size=3, max_bad=0.2)
        keys += [key for batch in sweep for key in batch["key"]]
        bad |= sweep.bad
    assert keys == [f"k{index}" for index in range(11) if index != 4]
    assert list(bad) == ["k4"]
    limited = Sweep(dataset, encoder(), 4, limit=3, num_workers=1)
    assert [batch["key"] for batch in limited] == [("k0", "k1", "k2")]
    with pytest.raises(DataError):
        list(Sweep(dataset, encoder(), 4, max_bad=0.0))


def test_columns_of_a_batch() -> None:
    batch = collate([encoder().encode(Pictures(9)[index], 0, index, False) for index in (0, 1, 2)])
    assert batch["image"].shape == (3, 3, 1, 1)
    assert isinstance(batch["text"], Ragged) and batch["text"].lengths.tolist() == [2, 3, 3]
    assert batch["num_lost"].tolist() == [0, 1, 3]
    assert batch["key"] == ("k0", "k1", "k2") and batch["group"] == ("even", "k1", "even")
    assert batch["caption"][0] == "a word "
    assert len(collate([])) == 0


def test_labels_texts_and_a_plugins_own_kind() -> None:
    image = Pictures(1)[0].image
    rows = [Encoder(TinyProcessor(), ImageLabel, 0).encode(ImageLabel("x", image, 4), 0, 0, False)]
    assert collate(rows)["label"].tolist() == [4] and "num_lost" not in collate(rows)
    rows = [Encoder(TinyProcessor(), Text, 0).encode(Text("x", "one two three four"), 0, 0, False)]
    assert collate(rows)["num_lost"].tolist() == [1]

    @dataclass(frozen=True)
    class Scored:
        key: Kept
        left: ImageRef
        right: ImageRef
        prompt: Annotated[str, Keep("asked")]
        score: float
        weight: Annotated[float, Keep()]
        tags: tuple[str, ...]

    assert columns_of(Scored) == {
        "key": ("key", "object"),
        "left": ("left", "image"),
        "right": ("right", "image"),
        "prompt": ("prompt", "text"),
        "asked": ("prompt", "object"),
        "score": ("score", "number"),
        "weight": ("weight", "object"),
        "tags": ("tags", "object"),
    }
    row = Encoder(TinyProcessor(), Scored, 0).encode(Scored("a", image, image, "hi", 0.5, 2.0, ("x", "y")), 0, 0, False)
    batch = collate([row, row])
    assert batch["score"].tolist() == [0.5, 0.5] and batch["tags"] == (("x", "y"), ("x", "y"))
    assert batch["asked"] == ("hi", "hi") and batch["weight"] == (2.0, 2.0) and len(batch["prompt"]) == 2


def test_turns_are_read_together_and_kept_where_a_kind_says_so() -> None:
    assert columns_of(Prompt) == {
        "key": ("key", "object"),
        "sequences": ("prompt", "turns"),
        "prompt": ("prompt", "object"),
        "solution": ("solution", "object"),
        "columns": ("columns", "object"),
    }


def test_a_class_that_is_no_kind_of_example_says_what_it_lacks() -> None:
    @dataclass(frozen=True)
    class Older:
        key: str
        text: str

    @dataclass(frozen=True)
    class Mute:
        key: Kept
        prompt: Turns

    @dataclass(frozen=True)
    class Unmarked:
        key: Kept
        name: Annotated[str, Keep]

    faults = {
        dict: "is no dataclass",
        Older: "no field `key: Kept`",
        Mute: "no method `answers`",
        Unmarked: "marks `name` with the class Keep",
    }
    for kind, fault in faults.items():
        with pytest.raises(PluginError, match=f"example kind .*{kind.__name__} .*{fault}"):
            Encoder(TinyProcessor(), kind, 0)


def test_images_of_different_shapes_are_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="different shapes"):
        collate([{"image": torch.zeros(3, 2, 2)}, {"image": torch.zeros(3, 2, 3)}])


def test_stable_hash_is_stable() -> None:
    assert stable_hash("holdout", "cat") == 0xB6A0D5AE843533DA
    assert stable_hash("a", "bc") != stable_hash("ab", "c")


_RUN = """
import os, signal, sys, time
sys.path[:0] = [{root!r}]
import torch; torch.set_num_threads(1)
from tests.support.data_samples import Pictures, TinyProcessor
from mmalign.contract.examples import ImageText
from mmalign.data.collate import Encoder
from mmalign.data.loader import Stream
from mmalign.data.order import Order
if {late}:  # the second worker has not got anywhere yet when the signal comes
    forks = []
    os.register_at_fork(before=lambda: forks.append(1), after_in_child=lambda: time.sleep(len(forks) == 2))
stream = Stream(Pictures(50), Encoder(TinyProcessor(), ImageText, 0), Order(50, 0), 4, num_workers=2)
step, _ = next(stream)
stop = []
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda *_: stop.append(1))
print(*[worker.pid for worker in stream._batches._workers], flush=True)
while not stop: step, _ = next(stream); time.sleep(0.02)
for _ in range(5): step, _ = next(stream)   # the workers are still there
print("went on to", step, flush=True)
if {tidy}: stream.close()
"""


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("how", "tidy"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False)])
def test_workers_leave_signals_to_the_main_process_and_end_with_it(how: signal.Signals, tidy: bool, late: bool) -> None:
    code = _RUN.format(root=str(ROOT), tidy=tidy, late=late)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(_alive, workers))
    if how == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, how)  # as a terminal or a batch system does, to the whole group
    out, err = process.communicate(timeout=120)
    assert how == signal.SIGKILL or ("went on to" in out and err == "" and process.returncode == 0), err
    deadline = time.monotonic() + 15
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, workers))
