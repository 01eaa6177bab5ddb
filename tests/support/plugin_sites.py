"""Write a throw-away plugin: a module and the metadata that an installer would write."""

import tomllib
from pathlib import Path


def write_plugin(site: Path, name: str, source: str, *, module: str = "") -> str:
    """Write module and entry point of plugin `name` into `site`; returns the module's name."""
    module = module or f"plug_{name.replace('-', '_')}"
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{module}.py").write_text(source, encoding="utf-8")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[mmalign]\n{name} = {module}\n", encoding="utf-8")
    return module


def write_entry_points(site: Path, project: Path) -> None:
    """The metadata that installing the project would write into `site`, of its pyproject.toml."""
    content = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{content['name'].replace('-', '_')}-{content['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {content['name']}\nVersion: {content['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    points = "".join(f"{name} = {module}\n" for name, module in content["entry-points"]["mmalign"].items())
    (info / "entry_points.txt").write_text(f"[mmalign]\n{points}", encoding="utf-8")
