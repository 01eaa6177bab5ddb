"""Names that fill a label's placeholder: a folder's own, else the 1,000 of ImageNet.

read_vocabulary(folder) or imagenet_names()
"""

import importlib.util
from pathlib import Path

from mmalign.errors import PluginError

VOCABULARY = "vocabulary.txt"


def read_vocabulary(folder: Path) -> tuple[str, ...]:
    """The names in vocabulary.txt, one a line; empty without that file."""
    path = folder / VOCABULARY
    if not path.is_file():
        return ()
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def write_vocabulary(folder: Path, names: tuple[str, ...]) -> None:
    """Write vocabulary.txt; nothing for no names."""
    if names:
        (folder / VOCABULARY).write_text("\n".join(names) + "\n", encoding="utf-8")


def imagenet_names() -> tuple[str, ...]:
    """open_clip's IMAGENET_CLASSNAMES, from its file of plain data: importing open_clip itself takes seconds."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise PluginError("open_clip is not installed", hint="python -m pip install open_clip_torch")
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("mmalign_clip_zero_shot_metadata", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(module.IMAGENET_CLASSNAMES)
