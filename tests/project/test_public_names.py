"""docs/public_names.txt is all that plugins and examples import of mmalign, and all of it is there.

Whoever needs another name adds it to the file, and so to what a release keeps or says that it changed:

    python tests/project/test_public_names.py --write
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import mmalign

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "docs" / "public_names.txt"
FOLDERS = ("plugins", "examples", "mmalign/templates/plugin")


def imported() -> dict[str, set[str]]:
    """Module of mmalign -> the names that plugins, examples and templates of plugins import from it."""
    names: dict[str, set[str]] = {}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".jinja")]
    for path in files:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError:  # a template with more than names to fill in; what it writes is examples/starter
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level and _ours(node.module or ""):
                names.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    assert not _ours(alias.name) or alias.name == "mmalign", f"{path}: import the names that it needs"
    return names


def listed() -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            module, _, rest = line.partition(": ")
            names[module] = set(rest.split(", "))
    return names


def _ours(module: str) -> bool:
    return module == "mmalign" or module.startswith("mmalign.")


def test_plugins_and_examples_import_what_is_listed_and_nothing_else() -> None:
    used, known = imported(), listed()
    assert set(known["mmalign"]) == set(dir(mmalign)), "all of mmalign itself is public"
    others = {module: sorted(names - known.get(module, set())) for module, names in used.items()}
    assert not {module: names for module, names in others.items() if names}, "not public: --write, and say why"
    unused = {module: sorted(names - used.get(module, set())) for module, names in known.items() if module != "mmalign"}
    assert not {module: names for module, names in unused.items() if names}, "nobody imports these: --write"


def test_every_public_name_is_there() -> None:
    for module, names in listed().items():
        there = importlib.import_module(module)
        for name in names:
            assert hasattr(there, name) or importlib.import_module(f"{module}.{name}"), f"{module}.{name}"


def test_no_private_name_is_public() -> None:
    private = [f"{module}.{name}" for module, names in listed().items() for name in names if name.startswith("_")]
    assert private == ["mmalign.__version__"]


def write() -> None:
    names = imported() | {"mmalign": set(dir(mmalign))}
    head = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = [f"{module}: {', '.join(sorted(names[module]))}" for module in sorted(names)]
    LIST.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
    subprocess.run(["git", "diff", "--stat", str(LIST)], check=False, cwd=ROOT)
