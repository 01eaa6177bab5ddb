"""A small file for each data set that reads files: write_datasets() -> {data set: options}, of a folder that goes with
the process."""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

_WORDS = ("cat", "dog", "bird", "fish", "house", "tree")
_TABLES = {
    "text-files": [{"text": f"a red {word}"} for word in _WORDS],
    "completions": [{"prompt": f"the {word}", "completion": " is red"} for word in _WORDS],
    "preferences": [{"prompt": f"the {word}", "chosen": " is red", "rejected": " is"} for word in _WORDS],
    "labelled-completions": [
        {"prompt": f"the {word}", "completion": " is red", "label": bool(i % 2)} for i, word in enumerate(_WORDS)
    ],
    "labelled-texts": [{"text": f"the {word}", "label": ("calm", "wild")[i % 2]} for i, word in enumerate(_WORDS)],
    "prompts": [{"prompt": f"the {word}"} for word in _WORDS],
    "rankings": [
        {"prompt": f"the {word}", "completions": [" is red", " is", " was"], "ranks": [1, 2, 2]} for word in _WORDS
    ],
}


class _Folder:
    """A new folder, removed with this object or at the end."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mmalign-tables-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


_folder = _Folder()


def write_datasets() -> Mapping[str, Mapping[str, Any]]:
    root, options = _folder.path, {}
    for name, rows in _TABLES.items():
        path = root / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options[name] = {"path": str(path)}
    for index, word in enumerate(_WORDS):
        (root / "classes" / word).mkdir(parents=True)
        for copy in range(2):
            colour = (40 * index, 80 * copy, 90)
            Image.new("RGB", (8, 8), colour).save(root / "classes" / word / f"{copy}.png")
    captions = [
        {"image": f"classes/{word}/{copy}.png", "caption": f"a {word}, {copy}"} for word in _WORDS for copy in range(2)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    return {
        **options,
        "image-label": {"path": str(root / "classes")},
        "image-text": {"path": str(root / "pairs.jsonl")},
    }
