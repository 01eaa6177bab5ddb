"""A way to install throw-away plugins into this process."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plugin_sites import write_plugin

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """install(name, source) makes an installed plugin of this process, gone with the test."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(name: str, source: str, *, module: str = "") -> str:
        module = write_plugin(site, name, source, module=module)
        importlib.invalidate_caches()
        return module

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]
