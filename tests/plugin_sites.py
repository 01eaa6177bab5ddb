"""Write a throw-away plugin: a module and the metadata that an installer would write."""

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
