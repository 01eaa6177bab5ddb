"""README's table of objectives and model families is what the catalog says:

python tests/project/test_readme_matrix.py --write
"""

import re
import sys
from pathlib import Path

from mmalign.registry.catalog import Catalog
from mmalign.registry.compat import matrix
from mmalign.registry.plugins import load_plugins

README = Path(__file__).resolve().parents[2] / "README.md"
START, END = "<!-- the matrix: tests/project/test_readme_matrix.py --write -->", "<!-- end of the matrix -->"
# Families that differ in nothing here share a column.
COLUMNS = {
    "language model": ("causal-lm",),
    "CLIP, SigLIP": ("open-clip", "open-clip-coca", "clip", "siglip"),
    "reward model": ("reward-model",),
}


def table() -> str:
    words: dict[tuple[str, str], set[str]] = {}
    for _, family, objective, verdict in matrix(Catalog(load_plugins())):
        words.setdefault((objective.spec.name, family.name), set()).add(verdict.word)
    known = {family for _, family in words}
    assert known == {family for families in COLUMNS.values() for family in families}, "a family without a column"
    rows = [["objective", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    for name in sorted({name for name, _ in words}):
        cells = [set[str]().union(*(words[name, family] for family in families)) for families in COLUMNS.values()]
        assert all(len(cell) == 1 for cell in cells), f"{name}: families of one column differ: {cells}"
        rows.append([f"`{name}`", *(min(cell) for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_table_is_that_of_the_catalog() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0].strip() == table(), __doc__


if __name__ == "__main__" and "--write" in sys.argv:
    text = README.read_text(encoding="utf-8")
    README.write_text(re.sub(f"{START}.*?{END}", f"{START}\n{table()}\n{END}", text, flags=re.DOTALL), encoding="utf-8")
