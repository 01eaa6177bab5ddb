"""The images to classify: files, folders, globs and lists on stdin, a labelled folder, or the sample photographs.

inputs = from_arguments(["cats/", "-"], stdin)
inputs = from_dataset(catalog, folder)          # None: the data set `photos`
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmalign.contract.examples import ImageRef
from mmalign.contract.specs import Entry
from mmalign.data.images import find_images, survey
from mmalign.errors import UsageError
from mmalign.registry.catalog import Catalog

SAMPLES = "photos"

_KIND = "image-label"


@dataclass(frozen=True)
class Inputs:
    """names and refs correspond; problems: (argument, why it gives no image).

    truths: the class of each ref as an index into `classes`, empty where unknown. notes: messages for the user.
    """

    names: Sequence[str]
    refs: Sequence[ImageRef]
    problems: Sequence[tuple[str, str]] = ()
    truths: Sequence[int] = ()
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()


def from_arguments(arguments: Sequence[str], stdin: IO[bytes]) -> Inputs:
    """`-` stands for the lines of stdin. An image named twice is used once. The notes count links to folders and
    pictures in formats that are not read."""
    sources: list[str] = []
    for argument in arguments:
        if argument == "-":
            sources += [os.fsdecode(line.rstrip(b"\r\n")) for line in stdin if line.strip()]
        else:
            sources.append(argument)
    paths, problems = find_images(sources)
    folders = [path for path in (Path(source).expanduser() for source in dict.fromkeys(sources)) if path.is_dir()]
    lost = Counter(item.reason for folder in folders for item in survey(folder)[1] if item.lost)
    notes = [f"{count} files left out: {reason}" for reason, count in lost.items()]
    return Inputs([str(path) for path in paths], [ImageRef(str(path)) for path in paths], problems, notes=notes)


def from_dataset(catalog: Catalog, folder: Path | None) -> Inputs:
    """The examples of a folder of class folders, or the sample photographs; raises DataError.

    Where the folder has a validation part (`val/` beside `train/`), that part alone.
    """
    from mmalign.config.validate import build

    if folder is None:
        entry, values = catalog.find("datasets", SAMPLES), {}
    else:
        entry, values = _reader(catalog), {"path": str(folder)}
    dataset_class = catalog.load(entry)
    if "holdout" in dataset_class.Config.model_fields:
        values |= {"holdout": 0.0}  # nothing is trained here, so nothing needs to be held out
    config = build(dataset_class.Config, values, "dataset")
    part = dataset_class.build(config, "validation")
    notes = [] if part is None else [f"only the validation part of {folder} is measured: {len(part)} images"]
    part = part or dataset_class.build(config, "train")
    examples = [part[index] for index in range(len(part))]
    report = part.report()
    notes += [f"{count} files left out: {reason}" for reason, count in report["skipped"].items()]
    notes += [f"{count} files ignored: {reason}" for reason, count in report.get("ignored", {}).items()]
    unseen = sorted(set(range(len(part.classes))) - {example.label for example in examples})
    if unseen:
        names = ", ".join(part.classes[label] for label in unseen[:5])
        notes.append(
            f"{len(unseen)} of {len(part.classes)} classes have no image: {names}{', ...' * (len(unseen) > 5)}"
        )
    return Inputs(
        [example.key if folder is None else example.image.path for example in examples],
        [example.image for example in examples],
        truths=[example.label for example in examples],
        classes=part.classes,
        notes=notes,
    )


def match_classes(classes: Sequence[str], objects: Sequence[str]) -> list[int]:
    """For each class, the index of its object: the same word, in any case and with underscores read as spaces.

    Raises UsageError where a class is not among the objects, or matches two objects.
    """
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(objects):
        indices.setdefault(plain(name), []).append(index)
    matches = [indices.get(plain(name), []) for name in classes]
    missing = [name for name, where in zip(classes, matches, strict=True) if not where]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UsageError(
            f"the labels do not cover the classes {', '.join(missing[:5])}{more}",
            hint="Leave out --objects to take the names of the folders, or list every class.",
        )
    twice = [name for name, where in zip(classes, matches, strict=True) if len(where) > 1]
    if twice:
        raise UsageError(
            f"class {twice[0]!r} matches {len(matches[list(classes).index(twice[0])])} labels",
            hint="With --eval give one label with a placeholder; --templates averages several wordings.",
        )
    return [where[0] for where in matches]


def plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _reader(catalog: Catalog) -> Entry:
    for entry in catalog.entries("datasets"):
        if entry.spec.kind == _KIND and entry.spec.reads_files:
            return entry
    raise UsageError("no plugin here reads labelled folders", hint="Try: mmalign list datasets")


NUM_THREADS = min(8, os.cpu_count() or 1)
