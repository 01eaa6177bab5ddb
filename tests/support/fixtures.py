"""Fixtures of all tests, a plugin of `tests/conftest.py`. What only the tests of one folder need is in its conftest.py.

Nothing is imported before a test asks for it: tests without torch start without it.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.plugin_sites import write_plugin

if TYPE_CHECKING:
    from mmalign.registry.catalog import Catalog
    from mmalign.rl.answers import Answers
    from mmalign.testing.bench import Workbench
    from tests.support.resume_cases import Lab


@pytest.fixture(scope="session")
def catalog() -> "Catalog":
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins

    return Catalog(load_plugins())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
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


@pytest.fixture
def one_thread() -> Iterator[None]:
    from mmalign.testing.subjects import single_thread

    with single_thread():
        yield


@pytest.fixture(scope="session")
def bench() -> "Workbench":
    """The conformance kit's tiny models, written once a session."""
    from mmalign.testing.bench import Workbench

    return Workbench({}, {})


@pytest.fixture(scope="session")
def answered(bench: "Workbench") -> Callable[..., "Answers"]:
    """(texts, solutions) -> answers as a tiny policy would have written them, two to a prompt."""
    from mmalign.testing.reward_checks import make_answers

    def make(texts: Sequence[str], solutions: Sequence[str] | None = None, **changes: Any) -> "Answers":
        answers = make_answers(texts, bench)
        return replace(answers, **changes, **({} if solutions is None else {"solutions": tuple(solutions)}))

    return make


@pytest.fixture(scope="session")
def lm_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny language models by family."""
    from mmalign.testing import models
    from tests.support.lm_samples import FAMILIES

    root = tmp_path_factory.mktemp("language-models")
    return {name: vars(models)[name](root / name) for name in FAMILIES}


@pytest.fixture(scope="session")
def load_lm(catalog: "Catalog") -> Callable[..., Any]:
    """(folder, **options) -> backbone."""
    from mmalign.models.references import find_source

    def load(folder: Path, **options: Any) -> Any:
        source = find_source(str(folder), catalog)
        backbone_class = catalog.load(source.entry)
        return backbone_class.load(source, backbone_class.Config(**options))

    return load


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Lab"]:
    """Runs of any objective on a tiny model, stopped and resumed."""
    from mmalign.testing.bench import Workbench
    from tests.support.resume_cases import Lab, quick_runs

    with quick_runs():
        yield Lab(Workbench({}, {}), tmp_path_factory.mktemp("runs"))
