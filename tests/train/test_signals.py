"""Ctrl-C and SIGTERM reach the program whatever stands between: decoders, plugins, libraries that swallow them."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from mmalign.contract.examples import ImageRef
from mmalign.data import images
from mmalign.data.images import open_image
from mmalign.data.loader import Stream
from mmalign.registry.plugins import PluginHost
from mmalign.stop import Interrupted, StopRequest, held_back, interruption_behind
from mmalign.train import checkpoint
from mmalign.train import run as launch
from mmalign.train.layers import load_layers
from mmalign.train.plan import make_plan
from tests.support.pictures import write_pairs
from tests.support.project import python_path

BOTH = [signal.SIGINT, signal.SIGTERM]


@contextlib.contextmanager
def stopped_by(signum: int):
    """The block must end by this signal."""
    with StopRequest() as stop, pytest.raises(Interrupted) as stopped, stop.interrupts():
        yield
    assert stopped.value.signum == stop.signal == signum


@pytest.mark.parametrize("step", ["_open_header", "_flatten", "_upright"])
@pytest.mark.parametrize("signum", BOTH)
def test_a_signal_while_a_picture_is_decoded_is_no_unreadable_sample(tmp_path, monkeypatch, step, signum) -> None:
    write_pairs(tmp_path)
    picture = next(tmp_path.rglob("*.png"))
    sane = vars(images)[step]

    def signalled(*arguments):
        signal.raise_signal(signum)
        return sane(*arguments)

    monkeypatch.setattr(images, step, signalled)
    with stopped_by(signum):
        open_image(ImageRef(str(picture)))


def test_a_signal_that_somebody_swallowed_comes_again() -> None:
    swallowed = []
    with stopped_by(signal.SIGINT):
        for attempt in range(3):
            try:
                if not attempt:
                    signal.raise_signal(signal.SIGINT)
                time.sleep(5)
            except BaseException as error:
                swallowed.append(type(error))
        time.sleep(5)
        pytest.fail("it went on behind three bare excepts")
    assert swallowed == [Interrupted] * 3


def test_an_error_that_a_library_made_of_a_signal_is_known() -> None:
    try:
        try:
            raise Interrupted(2)
        except BaseException as error:
            raise ImportError("a compiled module cannot be loaded") from error
    except ImportError as error:
        assert interruption_behind(error).signum == 2
    assert interruption_behind(ValueError()) is None


def test_what_is_held_back_comes_behind_the_block() -> None:
    done = []
    with stopped_by(signal.SIGTERM):
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            done.append("whole")
        done.append("too late")
    assert done == ["whole"]


def test_a_second_signal_does_what_it_did_before() -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("before"))
    try:
        with StopRequest() as outer, StopRequest() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.signal == signal.SIGTERM and outer.signal is None and not heard
            signal.raise_signal(signal.SIGTERM)
            assert heard == ["before"]
        assert outer.signal == signal.SIGTERM, "who stands outside learns of it"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_while_a_plugin_loads_is_not_the_plugins_failure() -> None:
    host = PluginHost()
    with stopped_by(signal.SIGINT):
        host.add("slow", "a test", "", lambda: signal.raise_signal(signal.SIGINT))
        pytest.fail(f"the program went on without it: {host.records}")


_SWALLOWS = """
import os, signal, sys

class Swallowing:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.{signal})
                import time; time.sleep(0.05)
            except BaseException:
                pass  # as C code does that clears the error of a module it can do without

sys.meta_path.insert(0, Swallowing())
"""


@pytest.mark.parametrize(("module", "name"), [("torch", "SIGINT"), ("torch", "SIGTERM"), ("click", "SIGINT")])
def test_a_signal_that_an_import_swallows_ends_the_program(tmp_path, module, name) -> None:
    """In a process of its own, from its first import on."""
    (tmp_path / "sitecustomize.py").write_text(_SWALLOWS.format(module=module, signal=name))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "mmalign", "train", "--objective", "contrastive", "--out", str(out)]
    paths = python_path(tmp_path)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.Signals[name], done.stderr
    # Before it, Python may tell of a callback of its own that swallowed it once more.
    assert done.stderr.strip().splitlines()[-1] == f"interrupted by {name}" and not out.exists()


def test_a_signal_ends_the_wait_for_data_and_the_step_before_is_saved(
    catalog, tiny_folder, tmp_path, monkeypatch
) -> None:
    options = ["train.steps=6", "train.batch_size=4", "train.save_every=50", "data.num_workers=0", "train.log_every=1"]
    names = {"objective": "contrastive", "backbone": str(tiny_folder), "dataset": str(write_pairs(tmp_path / "pairs"))}
    plan = make_plan(catalog, load_layers(sets=options, names=names))
    sane, drawn = Stream.__next__, []

    def stuck(self):
        drawn.append(1)
        if len(drawn) == 4:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(60)
        return sane(self)

    monkeypatch.setattr(Stream, "__next__", stuck)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        launch.start(plan, catalog, folder=tmp_path / "run", device="cpu", say=lambda line: None)
    assert time.monotonic() - began < 50
    assert [path.name for path in checkpoint.committed(tmp_path / "run" / "checkpoints")] == ["step-000003"]
