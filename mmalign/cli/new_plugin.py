"""Writes a plugin to start from: an objective, a data set and a reward that work, tested by the conformance kit.

    check_name("my-plugin", host)                         # raises UsageError that suggests a free name
    files = write_plugin("my-plugin", Path("my-plugin"))  # [Path("my-plugin/README.md"), ...]

The files are templates in mmalign/templates/plugin. `mmalign plugins new` writes them.
"""

import importlib.util
import itertools
import keyword
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from mmalign.errors import UsageError
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import PluginHost

_TEMPLATES = Path(__file__).parents[1] / "templates" / "plugin"
_SUFFIX = ".jinja"
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ENTRIES = {"objectives": "", "datasets": "-data", "rewards": "-reward"}  # kind -> suffix to the plugin's name


def check_name(name: str, host: PluginHost) -> None:
    """Raise UsageError for a name that a new plugin, its module or its entries cannot have."""
    if not _KEBAB.fullmatch(name):
        words = re.findall("[a-z0-9]+", re.sub("(?<=[a-z0-9])(?=[A-Z])", "-", name).lower())
        kebab = re.sub("^[0-9-]+", "", "-".join(words))
        raise UsageError(
            f"{name!r} is not a valid plugin name: use lower-case letters and digits, in words joined by hyphens",
            hint=_try(kebab or "my-plugin", host),
        )
    if problem := _taken(name, host):
        raise UsageError(f"a new plugin cannot be called {name}: {problem}", hint=_try(name, host))


def write_plugin(name: str, folder: Path) -> list[Path]:
    """Write the files into a new folder, all or none, and return their paths. Raises UsageError if it exists."""
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already and is not changed", hint="Name a new folder: --out FOLDER")
    if not folder.parent.is_dir():
        raise UsageError(f"{folder}: there is no folder {folder.parent}", hint=f"mkdir -p {folder.parent}")
    contents = render(name)
    folder.mkdir()
    try:
        for path, text in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return [folder / path for path in contents]


def render(name: str) -> dict[str, str]:
    """The files of a new plugin: path in its folder -> content."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    module = module_of(name)
    return {
        template.removesuffix(_SUFFIX).replace("package/", f"{module}/"): environment.get_template(template).render(
            name=name, module=module
        )
        for template in environment.list_templates(extensions=[_SUFFIX[1:]])
    }


def next_commands(name: str, folder: Path) -> list[str]:
    """The commands that install the plugin, check it and train with it."""
    return [
        f"python -m pip install -e {shlex.quote(os.path.join('.', folder))}",
        f"mmalign plugins check {name}",
        f"mmalign train --objective {name} --dataset {name}-data --set train.steps=80",
    ]


def module_of(name: str) -> str:
    return name.replace("-", "_")


def _try(name: str, host: PluginHost) -> str:
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    free = next(each for each in itertools.chain([name, f"{name}-plugin"], numbered) if not _taken(each, host))
    return f"Try: mmalign plugins new {free}"


def _taken(name: str, host: PluginHost) -> str:
    """Why a name is not available, or ""."""
    module, catalog = module_of(name), Catalog(host)
    if keyword.iskeyword(module):
        return f"{module} is a keyword of Python"
    if module in sys.stdlib_module_names:
        return f"{module} is a module of Python's standard library"
    if module == "tests":
        return "a plugin's tests are in a folder of that name"
    if any(record.name in (name, module) for record in host.records):
        return "there is a plugin of that name (mmalign plugins list)"
    for kind, suffix in _ENTRIES.items():
        if any(entry.spec.name == name + suffix for entry in catalog.entries(kind)):
            return f"{name}{suffix} is one of the {kind} already (mmalign list {kind})"
    spec = importlib.util.find_spec(module)
    # A folder without code does not take the name, such as ./docs if the working folder is in Python's path.
    return f"a module {module} is installed" if spec is not None and spec.origin is not None else ""
