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
from tests.support.project import ROOT

CORE = sorted((ROOT / "mmalign").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
HEAVY = ("torch", "transformers", "open_clip", "pydantic")

# The folders of the core, from the bottom to the top; those of one line do not know each other. A module imports from
# its own folder and from lines above its own, whether at its head, within a function or for types alone.
LAYERS = (
    ("base",),  # modules that lie in no folder
    ("contract", "config"),
    ("ops", "registry"),
    ("language", "models"),
    ("data", "pairs"),
    ("evaluate",),
    ("rl", "train"),
    ("testing",),
    ("cli",),
)
_ENTRIES = ("mmalign", "mmalign.__main__")  # the package itself names what plugins import, lazily


def imports(path: Path) -> Iterator[tuple[str, list[str], int]]:
    """(module, names, line) of every import statement, wherever it stands; none is relative."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", [alias.name for alias in node.names], node.lineno


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_imports() -> dict[str, dict[str, int]]:
    """Module of the core -> the modules of the core that it imports, and the line where."""
    modules = {name_of(path): path for path in CORE}
    found: dict[str, dict[str, int]] = {}
    for name, path in modules.items():
        targets = found.setdefault(name, {})
        for module, names, line in imports(path):
            for target in [f"{module}.{each}" for each in names if f"{module}.{each}" in modules] or [module]:
                if target in modules and target != name:
                    targets[target] = line
    return found


def folder_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (ROOT / "mmalign" / parts[-1]).is_dir() else "base"


def test_no_module_knows_a_folder_above_its_own() -> None:
    level = {folder: number for number, layer in enumerate(LAYERS) for folder in layer}
    wrong = []
    for module, targets in own_imports().items():
        for target, line in targets.items():
            here, there = folder_of(module), folder_of(target)
            if module not in _ENTRIES and here != there and level[there] >= level[here]:
                wrong.append(f"{module}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)
    assert len(LAYERS) <= 9


def test_no_import_circle() -> None:
    """Peel off modules that import nothing which is left: what cannot be peeled off is a circle, or leads to one."""
    left = {module: set(targets) for module, targets in own_imports().items()}
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    assert not left, sorted(left)


def test_the_core_imports_no_plugin_and_plugins_neither_each_other_nor_private_names() -> None:
    wrong = []
    for path in CORE:
        wrong += [f"{path}:{n} {module}" for module, _, n in imports(path) if module.split(".")[0] in BUILTINS]
    for path in PLUGINS:
        own = path.relative_to(ROOT / "plugins").parts[0]
        for module, names, line in imports(path):
            package = module.split(".")[0]
            private = [part for part in [*module.split("."), *names] if part.startswith("_")]
            if (package in BUILTINS and package != own) or (package == "mmalign" and private):
                wrong.append(f"{path}:{line} imports {module} {names}")
    assert not wrong, "\n".join(wrong)


def test_a_plugins_own_module_imports_only_the_standard_library_and_mmalign() -> None:
    for name in BUILTINS:
        allowed = {*sys.stdlib_module_names, "mmalign", name}
        for module, _, line in imports(ROOT / "plugins" / name / "__init__.py"):
            assert module.split(".")[0] in allowed, f"{name}:{line} imports {module}"


def test_the_sandbox_stands_alone() -> None:
    for path in (ROOT / "plugins" / "mmalign_sandbox").glob("*.py"):
        for module, _, line in imports(path):
            assert module.split(".")[0] in {*sys.stdlib_module_names, "mmalign_sandbox"}, f"{path}:{line} {module}"


FORBIDDEN_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "yaml.load", "extractall"}
FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}


def test_no_pickle_no_shell_no_unsafe_loading() -> None:
    wrong = []
    for path in [*CORE, *PLUGINS]:
        for module, names, line in imports(path):
            if module.split(".")[0] in FORBIDDEN_MODULES or (module == "torch" and "load" in names):
                wrong.append(f"{path}:{line} imports {module}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = [f"{k}={keywords[k]}" for k in UNSAFE_OPTIONS if keywords.get(k, "False") != "False"]
            if called in FORBIDDEN_CALLS or called.endswith(".extractall") or unsafe:
                wrong.append(f"{path}:{node.lineno}: {called} {unsafe}")
    assert not wrong, "\n".join(wrong)


UNSAFE_OPTIONS = ("shell", "allow_pickle", "trust_remote_code")


def test_a_file_holds_one_idea_and_says_which() -> None:
    for path in [*CORE, *PLUGINS]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, path
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path}: no module docstring"


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


def test_the_objective_contract_has_fourteen_members() -> None:
    """Another one needs two users, and one that goes."""
    from mmalign.contract.objective import Objective, Phase

    own = {name for kind in (Objective, Phase) for name in vars(kind) | vars(kind).get("__annotations__", {})}
    members = {name for name in own if not name.startswith("_")} | {"__init__"}
    assert members | {"state"} == {
        "Config", "__init__", "coupled", "state", "comparison", "weights", "phases", "frozen", "prepare", "constrain",
        "save", "forward", "loss", "count",
    }  # fmt: skip
