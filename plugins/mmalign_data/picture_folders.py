"""Folders of pictures as image-text pairs, with captions from text files beside them or from the names of folders.

    read_folder(Path("photos"), found, template="a photo of a {}")

`cat.jpg` has its caption in `cat.txt` or `cat.caption`. Where no picture has such a file and pictures are in class
folders (`golden_retriever/1.jpg`), the template captions each, with spaces for the underscores in its folder's name.
"""

import os
from pathlib import Path

from mmalign.data.images import survey
from mmalign.errors import DataError
from mmalign.reading import open_file
from mmalign_data.pairs import READ, Found

_TEXTS = (".txt", ".caption")  # in this order
_MAX_TEXT = 1_000_000


def read_folder(folder: Path, found: Found, template: str, wanted: str) -> str:
    """Add the pairs of a folder; returns a note to show, or "". wanted: the hint of errors, which says what is
    accepted."""
    where = found.source(str(folder), str(folder))
    pictures, rest = survey(folder)
    if not pictures:
        formats = "".join(f"; {reason}" for reason in sorted({item.reason for item in rest if item.lost}))
        raise DataError(f"{folder}: no image, no tar and no table in the folder{formats}", hint=wanted)
    captions = {item.path: item for item in rest if item.path.suffix.lower() in _TEXTS and not item.lost}
    own = {picture: [captions[p] for s in _TEXTS for p in _beside(picture, s) if p in captions] for picture in pictures}
    nested = any(picture.parent != folder for picture in pictures)
    made = bool(template) and nested and not any(own.values())
    if made and (folder / "train").is_dir():
        raise DataError(
            f"{folder}: train is the name of a part of data, not of a class",
            hint=f"Name each part: --dataset {folder / 'train'} --set dataset.validation={folder / 'val'}",
        )
    used = set()
    for picture in pictures:
        name = os.path.relpath(picture, folder)
        if made:
            found.settle(_add_class(name, found, where, template))
            continue
        texts = own[picture]
        outcome = _add(name, texts[0].path, found, where) if texts else found.skip("no caption", name)
        found.settle(outcome)
        used |= {item.path for item in texts[:1]} if outcome == READ else set()
    found.settle(READ, len(used))
    for item in rest:
        if item.lost:
            found.settle(found.skip(item.reason, os.path.relpath(item.path, folder)))
        elif item.path not in used:
            found.ignore("text file that is no picture's caption" if item.path in captions else item.reason)
    return (
        f"captions come from the folders' names: {_caption(template, 'NAME')!r}; dataset.template=..." if made else ""
    )


def _beside(picture: Path, suffix: str) -> list[Path]:
    return [picture.with_suffix(each) for each in (suffix, suffix.upper())]


def _add(name: str, text: Path, found: Found, where: int) -> str:
    try:
        with open_file(text) as file:
            return found.add(name, file.read(_MAX_TEXT).decode("utf-8"), where)
    except UnicodeDecodeError:
        return found.skip("caption is not UTF-8", name)
    except OSError as error:
        return found.skip(f"caption: {error.strerror}", name)


def _add_class(name: str, found: Found, where: int, template: str) -> str:
    first, *inside = Path(name).parts
    if not inside:
        return found.skip("picture outside of the class folders", name)
    return found.add(name, _caption(template, first), where)


def _caption(template: str, name: str) -> str:
    return template.replace("{}", " ".join(name.replace("_", " ").split()))
