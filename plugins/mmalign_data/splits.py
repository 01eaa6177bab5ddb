"""Finds the files that a path stands for, and the split of each, so that nobody trains on test data unawares.

    part = choose(TextFilesConfig(path="./saved"), "preference", "train")   # a Part, or None

A split is named by the files that `datasets.save_to_disk` wrote (dataset_dict.json, state.json), by a hub id, and in
other folders by the names of files and folders as `datasets` reads them: train.jsonl, dev/a.parquet,
data/test-00000-of-00001.parquet. A file given by its own name or by a glob belongs to no split.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.errors import DataError, did_you_mean
from mmalign.reading import read_json
from mmalign_data.hub import PREFIX, fetch
from mmalign_data.options import TextFilesConfig
from mmalign_data.paths import expand
from mmalign_data.rows import SUFFIXES

SPLITS = ("train", "validation", "test")
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(\w[\w.-]*?)-\d{5}-of-\d{5}")
_DICT, _STATE = "dataset_dict.json", "state.json"
_NO_DATA = frozenset({_DICT, _STATE, "dataset_info.json", "dataset_infos.json"})

Splits = dict[str, list[Path]]  # under "" the files of no split


class Part(NamedTuple):
    """path, split: where the files are from; split may be empty. dealt: these files are divided into training and
    validation. ignored: number of other files in a folder, by the reason why they are not read."""

    path: str
    split: str
    files: list[Path]
    dealt: bool
    ignored: Mapping[str, int]

    @property
    def where(self) -> str:
        """Path and split, for messages."""
        return f"{self.path} [{self.split}]" if self.split else self.path


def choose(config: TextFilesConfig, kind: str, split: str) -> Part | None:
    """The files for train, validation or test; None where there are none for the latter two. Raises DataError."""
    if split not in SPLITS:
        raise DataError(f"{config.path}: no part {split!r}", hint=f"Parts: {', '.join(SPLITS)}.")
    if split == "validation" and config.validation:
        subset = config.subset if config.validation.startswith(f"{PREFIX}:") else ""
        splits = find_splits(config.validation, subset, kind)
        usual = next((name for name in _NAMES["validation"] if name in splits), "validation")
        name = _pick(config.validation, splits, config.validation_split, usual, "dataset.validation_split")
        return _part(config.validation, splits, name, dealt=False)
    splits = find_splits(config.path, config.subset, kind)
    names = {part: next((name for name in _NAMES[part] if name in splits), "") for part in SPLITS}
    if config.validation_split and not config.validation:
        names["validation"] = _pick(config.path, splits, config.validation_split, "", "dataset.validation_split")
    if split == "test":
        free = names["test"] and names["test"] not in (config.split, config.validation_split)
        return _part(config.path, splits, names["test"], dealt=False) if free else None
    validation = names["validation"] if names["validation"] != config.split else ""
    if split == "validation" and validation:
        return _part(config.path, splits, validation, dealt=False)
    train = _pick(config.path, splits, config.split, names["train"] or "train", "dataset.split")
    if train and train == config.validation_split:
        raise DataError(f"{config.path}: {train} is for training and for validation", hint="Name two splits.")
    return _part(config.path, splits, train, dealt=not (validation or config.validation))


def find_splits(path: str, subset: str, kind: str) -> Splits:
    """Every file of a path by its split; raises DataError where there is no file, or where only some files belong to a
    split."""
    prefix, _, name = path.partition(":")
    if prefix == PREFIX and name:
        return fetch(name, subset)
    if subset:
        raise DataError(f"{path} has no subsets", hint=f"dataset.subset goes with {PREFIX}:ORG/NAME.")
    splits: Splits = {}
    suffixes = (*SUFFIXES, ".arrow", *((".txt",) if kind == "text" else ()))
    for source in expand(path):
        for split, files in (_folder(source, suffixes) if source.is_dir() else {"": [source]}).items():
            splits[split] = splits.get(split, []) + files
    odd = [file for files in splits.values() for file in files if file.suffix.lower() not in suffixes]
    if odd or not any(splits.values()):
        what = odd[0].name if odd else path
        raise DataError(f"{path}: {what} holds no known form of {kind} data", hint=f"Give {', '.join(suffixes)}.")
    if "" in splits and len(splits) > 1:
        named, other = next(name for name in splits if name), splits[""][0]
        example = splits[_trainable(splits)][0]
        raise DataError(
            f"{path}: {splits[named][0].name} is of the split {named}, {other.name} of no split",
            hint=f"Give the file or folder that you mean, as --dataset {example}, or move the rest away.",
        )
    return splits


def _part(path: str, splits: Mapping[str, list[Path]], name: str, *, dealt: bool) -> Part:
    return Part(path, name, splits[name], dealt, _others(path, splits, name))


def _others(path: str, splits: Mapping[str, list[Path]], name: str) -> dict[str, int]:
    """Files of a folder that are not of the split: files of other splits, and files that are no tables."""
    if path.startswith(f"{PREFIX}:"):
        return {}
    of_others = {file: split for split, files in splits.items() if split != name for file in files}
    counts: Counter[str] = Counter()
    for folder in (item for item in expand(path) if item.is_dir()):
        for file in sorted(folder.rglob("*")):
            if file.is_dir() or file in splits[name]:
                continue
            hidden = any(name.startswith(".") for name in file.relative_to(folder).parts)
            other = "hidden file" if hidden else f"no table ({file.suffix.lower()[:12] or 'no suffix'})"
            described = "description of the data" if file.name in _NO_DATA or file.name == _STATE else other
            counts[f"of the split {of_others[file]}" if file in of_others else described] += 1
    return dict(counts)


def _pick(path: str, splits: Mapping[str, Any], asked: str, usual: str, option: str) -> str:
    """The split asked for, else the usual one, else the only one of data that name no splits."""
    if (asked or usual) in splits:
        return asked or usual
    if "" in splits:
        if asked:
            raise DataError(f"{path} has no splits, so it has no {asked!r}", hint=f"Leave {option} out.")
        return ""
    wanted = f"no split {asked!r}" if asked else f"none of its splits is called {usual}"
    example = _trainable(splits)
    hint = f"{did_you_mean(asked, splits)} Name one: --set {option}={example or 'NAME'}".strip()
    raise DataError(f"{path}: {wanted}; it has {', '.join(splits)}", hint=hint)


def _trainable(splits: Mapping[str, Any]) -> str:
    """The first split named as training data, else the first whose name says nothing about its use, else ""."""
    for wanted in (["train"], []):
        split = next((name for name in splits if name and _said(name) == wanted), "")
        if split:
            return split
    return ""


def _folder(folder: Path, suffixes: tuple[str, ...]) -> Splits:
    if (folder / _DICT).is_file():
        names = _json(folder / _DICT).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) and _plain(name) for name in names):
            raise DataError(f"{folder / _DICT}: no list of splits", hint="Save the data again.")
        return {name: _saved(folder / name)[1] for name in names}
    if (folder / _STATE).is_file():
        return dict([_saved(folder)])
    splits: Splits = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if file.suffix.lower() in suffixes and file.name not in _NO_DATA and not hidden:
            splits.setdefault(_split_of(inside), []).append(file)
    return splits


def _saved(folder: Path) -> tuple[str, list[Path]]:
    """(split, Arrow files) of a folder that Dataset.save_to_disk wrote; "" where it was of no split."""
    state = _json(folder / _STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        hint = "Save it with a newer release of datasets (2 or later), which writes the rows in their order."
        raise DataError(f"{folder}: the order of its rows is in a file of indices, which is not supported", hint=hint)
    listed = state.get("_data_files")
    names = [item.get("filename") for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    files = [name for name in names if isinstance(name, str) and _plain(name)]
    if not files or len(files) < len(names):
        raise DataError(f"{folder / _STATE}: names no data files, or odd ones", hint="Save the data again.")
    missing = next((name for name in files if not (folder / name).is_file()), None)
    if missing is not None:
        raise DataError(f"{folder}: {missing} is missing", hint="Copy the whole folder again.")
    return str(state.get("_split") or "").partition("[")[0], [folder / name for name in files]


def _plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}", hint="Copy or save the folder again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object", hint="Copy or save the folder again.")
    return content


def _split_of(file: Path) -> str:
    """The split that the names of a file and its folders state; raises DataError where they state two."""
    shard = _SHARD.fullmatch(file.stem)
    levels = [shard[1] if shard else file.stem, *reversed(file.parent.parts)]
    stated = list(dict.fromkeys(split for level in levels for split in _said(level)))
    if len(stated) > 1:
        hint = "Give the file or folder that you mean by its own path, or move the others."
        raise DataError(f"{file}: its path names the splits {' and '.join(stated)}", hint=hint)
    split = stated[0] if stated else ""
    # data/train_prefs-00000-of-00001.parquet: a split of its own name
    return shard[1] if shard and (split or file.parent.name == "data") else split


def _said(name: str) -> list[str]:
    """The splits that the first and the last word of a name refer to."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    return [split for split, names in _NAMES.items() if any(word in names for word in words[:1] + words[-1:])]
