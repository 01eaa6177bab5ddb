"""Where the project lies, and the `PYTHONPATH` of processes that tests start: {"PYTHONPATH": python_path()}."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SUPPORT = ROOT / "tests" / "support"


def python_path(*first: Path) -> str:
    """The project's own packages, its plugins and its tests; `first` come before them."""
    return os.pathsep.join(map(str, (*first, ROOT, ROOT / "plugins")))
