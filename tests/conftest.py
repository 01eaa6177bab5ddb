"""Shared by all tests: no network, no user settings, few threads."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and caches go to a fresh folder, never to the user's."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MMALIGN_HOME", str(home))
    monkeypatch.setenv("MMALIGN_CACHE", str(home / "cache"))
