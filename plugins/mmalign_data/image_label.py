"""The reader of labelled images: one folder for each class.

    mmalign zero-shot --eval photos/            # photos/cat/1.jpg, photos/dog/2.jpg, ...
    mmalign train --objective sft --backbone clip-lite --dataset image-label --set dataset.path=photos/

As answers to pictures the classes stand in a template. The folder may contain `train/` and `validation/` (or `val/`,
`test/`) with the class folders inside; otherwise a part of the images is held out. Classes are the folders' names,
sorted.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mmalign.contract.examples import Completion, ImageLabel, ImageRef, Prompt
from mmalign.data.images import LeftOut, is_litter, survey
from mmalign.errors import DataError, did_you_mean
from mmalign.hashing import stable_hash

_ACCEPTED = "Accepted: JPEG, PNG, WebP, GIF, BMP"
_VALIDATION = ("validation", "val", "test")


class ImageLabelConfig(BaseModel):
    """Options of labelled image folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(description="A folder with one folder per class, or with train/ and validation/ above them")
    validation: str = Field(
        "", description="Another such folder for validation; empty: a sub-folder, else a held-out part"
    )
    holdout: float = Field(
        0.05, ge=0, lt=1, description="Fraction of images held out where there is no other validation part (0-1)"
    )
    kind: Literal["image-label", "completion", "prompt"] = Field(
        "image-label",
        description="image-label: images with their class; completion: images as prompts, with their class as answer; "
        "prompt: images as prompts, with their class as solution",
    )
    template: str = Field(
        "a photo of a {}", description="text of a class as an answer or solution; {} stands for its name"
    )

    @field_validator("template")
    @classmethod
    def _has_one_place(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("it must hold {} once, where the name of the class goes")
        return template

    def answer(self, name: str) -> str:
        return self.template.replace("{}", name)


class ImageFolders:
    """Image-label examples, whose `label` indexes the names in `classes`, or images with the class as an answer."""

    Config: ClassVar[type[BaseModel]] = ImageLabelConfig

    def __init__(
        self,
        config: ImageLabelConfig,
        root: Path,
        classes: tuple[str, ...],
        items: list[tuple[str, int]],
        empty: list[str],
        left_out: list[LeftOut],
        elsewhere: int,
    ) -> None:
        """elsewhere: images of the same folder that are in another part."""
        self.classes = classes
        self._config = config
        self._root = root
        self._items = items
        self._empty = empty
        self._left_out = left_out
        self._elsewhere = elsewhere

    @classmethod
    def build(cls, config: ImageLabelConfig, split: str) -> Self | None:
        """List the images; None where there is no validation part. Raises DataError."""
        folder = Path(config.path).expanduser()
        if not folder.is_dir():
            reason = "not a folder" if folder.exists() else "no such folder"
            raise DataError(f"{config.path}: {reason}", hint="Wanted: one folder per class, with images inside.")
        train = folder / "train" if (folder / "train").is_dir() else folder
        separate = _validation_folder(config, folder if train != folder else None)
        if separate is not None and separate.resolve() in (train.resolve(), *train.resolve().parents):
            raise DataError(
                f"{separate} holds the training images as well",
                hint="Name another folder: --set dataset.validation=...",
            )
        classes = _classes(train)
        left_out: list[LeftOut] = []
        items, empty = _list(train, classes, left_out)
        if separate is not None:
            _check_same(train, classes, separate)
            others, other_empty = _list(separate, classes, left_out)
            for top in [folder, *([] if folder in separate.parents else [separate])]:
                left_out += _outside(top, [train, separate], classes)
            if split == "validation":
                return cls(config, separate, classes, others, other_empty, left_out, len(items))
            return cls(config, train, classes, items, empty, left_out, len(others))
        left_out += _outside(folder, [train], classes)
        held_out = [stable_hash("holdout", name) / 2**64 < config.holdout for name, _ in items]
        chosen = [item for item, out in zip(items, held_out, strict=True) if out == (split == "validation")]
        if not chosen and split == "validation":
            return None
        if not chosen:
            raise DataError(f"{train}: all {len(items)} images are held out", hint="--set dataset.holdout=0")
        return cls(config, train, classes, chosen, empty, left_out, len(items) - len(chosen))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> ImageLabel | Completion | Prompt:
        name, label = self._items[index]
        image = ImageRef(os.path.join(self._root, name))
        if self._config.kind == "image-label":
            return ImageLabel(key=name, image=image, label=label)
        answer = self._config.answer(self.classes[label])
        return (Completion if self._config.kind == "completion" else Prompt)(name, image, answer)

    def text_answers(self) -> Iterator[str]:
        """The text of every class."""
        yield from map(self._config.answer, self.classes)

    def report(self) -> Mapping[str, Any]:
        """Counts; `empty_classes` have no image. `entries`: every file of the folder and every link to a folder, once,
        as read (for any part) or under the reason why it is not."""
        lost, ignored = _counts(self._left_out, lost=True), _counts(self._left_out, lost=False)
        counts = {"kept": len(self), "skipped": lost, "source": str(self._root), "classes": len(self.classes)}
        counts |= {"empty_classes": self._empty} if self._empty else {}
        entries = {"read": len(self) + self._elsewhere, **lost, **ignored}
        return {**counts, "ignored": ignored, "entries": entries}

    def fingerprint(self) -> str:
        """A hash of names and labels; the images are not read."""
        return hashlib.sha256(
            repr((self.classes, self._items, *self._texts())).encode("utf-8", "surrogatepass")
        ).hexdigest()[:16]

    def _texts(self) -> tuple[str, ...]:
        return () if self._config.kind == "image-label" else (self._config.kind, self._config.template)


def _validation_folder(config: ImageLabelConfig, above: Path | None) -> Path | None:
    if config.validation:
        folder = Path(config.validation).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"{config.validation}: no such folder", hint="dataset.validation names a folder of class folders."
            )
        return folder
    candidates = [above / name for name in _VALIDATION] if above else []
    return next((folder for folder in candidates if folder.is_dir()), None)


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_litter(entry.name))


def _classes(root: Path) -> tuple[str, ...]:
    classes = tuple(_folders(root))
    if not classes:
        images, _ = survey(root)
        what = f"{len(images)} images but no class folder" if images else "empty"
        raise DataError(f"{root}: {what}", hint="Put the images of each class into a folder named after it.")
    return classes


def _check_same(train: Path, classes: tuple[str, ...], validation: Path) -> None:
    for name in _folders(validation):
        if name not in classes:
            raise DataError(f"{validation}: class {name!r} is not in {train}", hint=did_you_mean(name, classes))


def _list(root: Path, classes: tuple[str, ...], left_out: list[LeftOut]) -> tuple[list[tuple[str, int]], list[str]]:
    """The images of each class, and the classes without any; other files in their folders go to `left_out`."""
    items: list[tuple[str, int]] = []
    empty = []
    for label, name in enumerate(classes):
        images, rest = survey(root / name) if (root / name).is_dir() else ([], [])
        items += [(os.path.relpath(image, root), label) for image in images]
        left_out += rest
        empty += [name] * (not images)
    if not items:
        formats = sorted({item.reason for item in left_out if item.lost})
        raise DataError(
            f"{root}: no image in its {len(classes)} class folders{''.join(f'; {reason}' for reason in formats)}",
            hint=_ACCEPTED,
        )
    return items, empty


def _outside(folder: Path, roots: list[Path], classes: tuple[str, ...]) -> list[LeftOut]:
    """Files in the folder that are in no class folder of the parts used."""
    used = [root / name for root in roots for name in classes]

    def is_outside(path: Path) -> bool:
        return not any(path == each or each in path.parents for each in used)

    pictures, rest = survey(folder)
    lost = [LeftOut(path, "picture outside of the class folders", True) for path in pictures if is_outside(path)]
    return lost + [item for item in rest if is_outside(item.path)]


def _counts(left_out: list[LeftOut], *, lost: bool) -> dict[str, int]:
    return dict(Counter(item.reason for item in left_out if item.lost == lost))
