"""Shared by all tests: no network, no user settings, one thread."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ("tests.support.fixtures",)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more bring nothing to tiny tensors, and wait for each other by spinning


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders; `mktemp` looks through all that there are for the next number, for every test."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and caches go to a fresh folder, never to the user's."""
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("MMALIGN_HOME", str(home))
    monkeypatch.setenv("MMALIGN_CACHE", str(home / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _real_curves() -> Iterator[Callable[..., Any] | None]:
    """Runs leave a blank picture of their curves: drawing takes several times as long as a tiny run. Gives the real
    drawing, None where no test of the session can train."""
    if "torch" not in sys.modules:
        yield None
        return
    from matplotlib.figure import Figure
    from mmalign_report import page

    from mmalign.train import curves

    real = curves.draw_curves
    with pytest.MonkeyPatch.context() as patch:
        for module in (curves, page):
            patch.setattr(module, "draw_curves", lambda records: Figure(figsize=(1, 1)))
        yield real


@pytest.fixture
def curves(_real_curves: Callable[..., Any] | None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Draws the curves, also in the runs of this test."""
    from mmalign_report import page

    from mmalign.train import curves

    real = _real_curves or curves.draw_curves
    for module in (curves, page):
        monkeypatch.setattr(module, "draw_curves", real)
    return real
