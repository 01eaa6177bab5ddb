"""The architecture, checked by reading the source: who imports whom, what is never called, what stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmalign.contract import hooks as hookspecs
from mmalign.contract.specs import KINDS
from mmalign.registry.plugins import BUILTINS

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "mmalign").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
HEAVY = ("torch", "transformers", "open_clip", "pydantic")


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(module, names) of every import statement, wherever it stands; relative ones made absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", [alias.name for alias in node.names]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_no_plugin(path: Path) -> None:
    bad = [module for module, _ in imports(path) if module.split(".")[0] in BUILTINS]
    assert not bad


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_import_neither_each_other_nor_private_names(path: Path) -> None:
    own = path.relative_to(ROOT / "plugins").parts[0]
    for module, names in imports(path):
        package = module.split(".")[0]
        assert package not in BUILTINS or package == own, f"imports {module}"
        if package == "mmalign":
            private = [part for part in [*module.split("."), *names] if part.startswith("_")]
            assert not private, f"imports {module} {names}"


@pytest.mark.parametrize("name", BUILTINS)
def test_a_plugins_own_module_imports_only_the_standard_library_and_mmalign(name: str) -> None:
    allowed = {*sys.stdlib_module_names, "mmalign", name}
    for module, _ in imports(ROOT / "plugins" / name / "__init__.py"):
        assert module.split(".")[0] in allowed


FORBIDDEN_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "yaml.load", "extractall"}


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_no_shell_no_unsafe_loading(path: Path) -> None:
    for module, names in imports(path):
        assert module.split(".")[0] not in ("pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"), module
        assert not (module == "torch" and "load" in names)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in FORBIDDEN_CALLS and not called.endswith(".extractall"), f"line {node.lineno}: {called}"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert keywords.get("shell", "False") == "False", f"line {node.lineno}: shell="
        assert keywords.get("allow_pickle", "False") == "False", f"line {node.lineno}: allow_pickle="
        assert keywords.get("trust_remote_code", "False") == "False", f"line {node.lineno}: trust_remote_code="


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "no module docstring"


def test_every_kind_has_its_hook_and_every_hook_says_what_it_is() -> None:
    hooks = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "mmalign_spec")}
    assert {name for name in hooks if name.startswith("register_")} == {f"register_{kind}" for kind in KINDS}
    for name, hook in hooks.items():
        assert hook.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["zero-shot", "--help"],
        ["evaluate", "--help"],
        ["score", "--help"],
        ["sample", "--help"],
        ["rank", "--help"],
        ["pipeline", "--help"],
        ["list", "objectives"],
        ["matrix"],
    ],
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from mmalign.cli import run; code = run(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
