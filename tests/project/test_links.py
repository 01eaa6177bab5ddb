"""Links and paths in the documentation name files that exist, and mkdocs.yml lists every page of docs/."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.project import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*sorted(ROOT.glob("*.md")), *PAGES, *sorted(ROOT.glob("examples/*/README.md"))]
# A code span that begins with a folder of the repository.
_PATH = re.compile(r"`((?:mmalign|plugins|tests|examples|docs|\.ci)/[\w./-]*)`")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _links(path: Path) -> list[str]:
    """Targets of the page's relative links, without what stands behind `#`."""
    return re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    assert [target for target in _links(path) if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=_name)
def test_paths_in_code_spans_exist(path: Path) -> None:
    assert [name for name in _PATH.findall(path.read_text(encoding="utf-8")) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_a_page_of_the_site_links_to_files_of_the_site_alone(path: Path) -> None:
    """`mkdocs build --strict` refuses a link to a folder, and one that leaves docs/."""
    targets = [(path.parent / target).resolve() for target in _links(path)]
    assert [target for target in targets if not (target.is_file() and target.is_relative_to(DOCS))] == []


def test_the_site_lists_every_page() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [name for entry in config["nav"] for name in ([entry] if isinstance(entry, str) else entry["Decisions"])]
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


def test_there_are_links_and_paths_to_check() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert sum(len(_links(path)) for path in TEXTS) >= 20 and len(_PATH.findall(text)) >= 10
