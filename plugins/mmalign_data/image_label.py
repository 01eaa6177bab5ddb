"""The reader of labelled images: one folder per class.

    mmalign zero-shot --eval photos/            # photos/cat/1.jpg, photos/dog/2.jpg, ...

The folder may hold `train/` and `validation/` (or `val/`, `test/`) with the class folders inside; else a part is held
out. Classes are the folders' names, sorted.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.data.examples import ImageLabel, ImageRef
from mmalign.data.images import find_images
from mmalign.data.order import stable_hash
from mmalign.errors import DataError, did_you_mean

_VALIDATION = ("validation", "val", "test")


class ImageLabelConfig(BaseModel):
    """Options of labelled image folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(description="A folder with one folder per class, or with train/ and validation/ above them")
    validation: str = Field(
        "", description="Another such folder for validation; empty: a sub-folder, else a held-out part"
    )
    holdout: float = Field(
        0.05, ge=0, lt=1, description="Fraction of images held out where nothing else is given (0-1)"
    )


class ImageFolders:
    """Image-label examples; `classes` are the names that `label` indexes."""

    Config: ClassVar[type[BaseModel]] = ImageLabelConfig

    def __init__(self, root: Path, classes: tuple[str, ...], items: list[tuple[str, int]], empty: list[str]) -> None:
        self.classes = classes
        self._root = root
        self._items = items
        self._empty = empty

    @classmethod
    def build(cls, config: ImageLabelConfig, split: str) -> Self | None:
        """List the images; None where there is no validation part. Raises DataError."""
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            reason = "not a folder" if folder.exists() else "no such folder"
            raise DataError(f"{config.path}: {reason}", hint="Wanted: one folder per class, with images inside.")
        train = folder / "train" if (folder / "train").is_dir() else folder
        separate = _validation_folder(config, folder if train != folder else None)
        classes = _classes(train)
        if split == "validation" and separate is not None:
            _check_same(train, classes, separate)
            return cls(separate, classes, *_list(separate, classes))
        items, empty = _list(train, classes)
        holdout = 0.0 if separate is not None else config.holdout
        held_out = [stable_hash("holdout", name) / 2**64 < holdout for name, _ in items]
        chosen = [item for item, out in zip(items, held_out, strict=True) if out == (split == "validation")]
        if not chosen and split == "validation":
            return None
        if not chosen:
            raise DataError(
                f"{train}: no image in its {len(classes)} class folders", hint="Accepted: JPEG, PNG, WebP, ..."
            )
        return cls(train, classes, chosen, empty)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> ImageLabel:
        name, label = self._items[index]
        return ImageLabel(key=name, image=ImageRef(os.path.join(self._root, name)), label=label)

    def report(self) -> Mapping[str, Any]:
        """Counts; `empty_classes` have no image."""
        counts = {"kept": len(self), "skipped": {}, "source": str(self._root), "classes": len(self.classes)}
        return {**counts, "empty_classes": self._empty} if self._empty else counts

    def fingerprint(self) -> str:
        """A hash of names and labels; the images are not read."""
        return hashlib.sha256(repr((self.classes, self._items)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _validation_folder(config: ImageLabelConfig, above: Path | None) -> Path | None:
    if config.validation:
        folder = Path(config.validation).expanduser()
        if not folder.is_dir():
            raise DataError(f"{config.validation}: no such folder", hint="dataset.validation wants class folders.")
        return folder
    candidates = [above / name for name in _VALIDATION] if above else []
    return next((folder for folder in candidates if folder.is_dir()), None)


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(root: Path) -> tuple[str, ...]:
    classes = tuple(_folders(root))
    if not classes:
        found, _ = find_images([root])
        what = f"{len(found)} images but no class folder" if found else "empty"
        raise DataError(f"{root}: {what}", hint="Put the images of each class into a folder named after it.")
    return classes


def _check_same(train: Path, classes: tuple[str, ...], validation: Path) -> None:
    for name in _folders(validation):
        if name not in classes:
            raise DataError(f"{validation}: class {name!r} is not in {train}", hint=did_you_mean(name, classes))


def _list(root: Path, classes: tuple[str, ...]) -> tuple[list[tuple[str, int]], list[str]]:
    items: list[tuple[str, int]] = []
    empty = []
    for label, name in enumerate(classes):
        images, _ = find_images([root / name]) if (root / name).is_dir() else ([], [])
        items += [(os.path.relpath(image, root), label) for image in images]
        empty += [name] * (not images)
    if not items:
        raise DataError(
            f"{root}: no image in its {len(classes)} class folders", hint="Accepted: JPEG, PNG, WebP, GIF, BMP"
        )
    return items, empty
