"""Shared by all tests: no network, no user settings, few threads."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")


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
