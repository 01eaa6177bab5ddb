"""The labels of zero-shot classification: labels x objects x templates, as texts for the text tower.

    patterns, notes = read_labels(["cat,dog,fox"])                     # ["cat", "dog", "fox"]
    labels, notes = build_labels(["a photo of a <object>"], ["cat", "dog"], vocabulary=(), templates=None)
    labels[0]      # Label(text="a photo of a cat", object="cat", prompts=("a photo of a cat",))

Placeholders are `<object>`, `{}` and `{c}`. A label without one is taken literally and is its own object. Templates (a
named set, or a file with one a line) replace the wording: each object is put into every template and the text
embeddings are averaged, as in open_clip. The pattern then only names the objects, and a note says so.
"""

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mmalign.errors import UsageError, did_you_mean
from mmalign.reading import read_text

PLACEHOLDERS = ("<object>", "{c}", "{}")
DEFAULT_PATTERN = "a photo of a <object>"
_ALMOST = re.compile(r"<[A-Za-z_]+>|\{[A-Za-z_0-9]+\}|<>")
_OPEN_CLIP_SETS = {"openai-7": "SIMPLE_IMAGENET_TEMPLATES", "openai-80": "OPENAI_IMAGENET_TEMPLATES"}
TEMPLATE_SETS = ("plain", *_OPEN_CLIP_SETS)


@dataclass(frozen=True)
class Label:
    """One class. text: shown to the user; object: put into the pattern; prompts: the texts that are averaged."""

    text: str
    object: str
    prompts: tuple[str, ...]


def placeholder(label: str) -> str | None:
    """The placeholder of a label, or None; raises UsageError where two kinds are mixed."""
    marks = [mark for mark in PLACEHOLDERS if mark in label]
    if len(marks) > 1:
        raise UsageError(
            f"label {label!r} mixes {len(marks)} kinds of placeholder: {', '.join(marks)}",
            hint="Use one kind: every <object>, {} or {c} in a label is filled with the same object.",
        )
    return marks[0] if marks else None


def read_labels(typed: Sequence[str]) -> tuple[list[str], list[str]]:
    """(labels, notes for the user) from the typed texts: `cat,dog,fox` alone is a list, `@file` has one label a line.

    A text with a placeholder, or one of several texts, is a label as it stands, with its commas. Raises UsageError
    where a file cannot be read, or a list or a file has no label.
    """
    if len(typed) == 1 and "," in typed[0] and not typed[0].startswith("@") and placeholder(typed[0]) is None:
        labels = _names_of(typed[0].split(","), typed[0])
        note = f"{len(labels)} labels, split at commas: {' | '.join(labels)} (repeat --labels where one has a comma)"
        return labels, [note]
    labels = []
    for text in typed:
        labels += _names_of(_lines(text[1:]), text) if text.startswith("@") else [text]
    commas = [text for text in typed if "," in text and not text.startswith("@") and placeholder(text) is None]
    return labels, [f"{text!r} is one label, commas included, since --labels is repeated" for text in commas[:1]]


def build_labels(
    patterns: Sequence[str],
    objects: Sequence[str] | None,
    vocabulary: Sequence[str],
    templates: Sequence[str] | None,
) -> tuple[list[Label], list[str]]:
    """Return (labels, notes for the user).

    patterns: the labels as typed. objects: the words for placeholders; None: the backbone's `vocabulary`. templates:
    None, or texts with a placeholder each. Raises UsageError for no label, duplicates, an empty label, objects without
    a placeholder to fill, and a placeholder with nothing to fill it.
    """
    if not patterns and objects is not None:
        patterns = (DEFAULT_PATTERN,)
    patterns = [" ".join(pattern.split()) for pattern in patterns]
    if not patterns or "" in patterns:
        raise UsageError(
            "an empty label" if patterns else "no labels were given",
            hint='Try: mmalign zero-shot --labels "a photo of a <object>" --objects cat,dog',
        )
    marks = [placeholder(pattern) for pattern in patterns]
    notes = _suspicions(pattern for pattern, mark in zip(patterns, marks, strict=True) if mark is None)
    if objects is not None and not any(marks):
        raise UsageError(
            f"objects were given, but no label has a placeholder for them: {patterns[0]!r}",
            hint=f'Put <object> into a label: --labels "{DEFAULT_PATTERN}"',
        )
    names, more = _names(objects, vocabulary) if any(marks) else ([], [])
    labels = []
    for pattern, mark in zip(patterns, marks, strict=True):
        for name in names if mark else [pattern]:
            text = pattern.replace(mark, name) if mark else pattern
            labels.append(Label(text, name, fill_all(templates, name) if templates else (text,)))
    _refuse_duplicates(labels, by_prompts=templates is not None)
    if templates and any(marks):
        first = next(pattern for pattern, mark in zip(patterns, marks, strict=True) if mark)
        notes.append(f"the templates replace the wording of {first!r}; it only names the results")
    return labels, notes + more


def fill_all(templates: Sequence[str], name: str) -> tuple[str, ...]:
    """Put a name into every template."""
    filled = []
    for template in templates:
        mark = placeholder(template)
        assert mark, f"template {template!r} was not checked"
        filled.append(template.replace(mark, name))
    return tuple(filled)


def read_names(argument: str) -> list[str]:
    """`cat,dog`, or `@file` with one name a line; raises UsageError where the file cannot be read or names nothing."""
    return _names_of(_lines(argument[1:]) if argument.startswith("@") else argument.split(","), argument)


def _names_of(texts: Iterable[str], argument: str) -> list[str]:
    names = [" ".join(text.split()) for text in texts]
    names = [name for name in names if name]
    if not names:
        raise UsageError(f"no name in {argument!r}", hint="Give names: cat,dog, or a file with one a line: @names.txt")
    return names


def read_templates(argument: str) -> tuple[str, ...] | None:
    """The texts of a named set or of `@file`, or None for `plain`; raises UsageError."""
    if argument == "plain":
        return None
    if argument in _OPEN_CLIP_SETS:
        functions = getattr(_open_clip_metadata(), _OPEN_CLIP_SETS[argument])
        return tuple(function("{}") for function in functions)
    if not argument.startswith("@"):
        known = [*TEMPLATE_SETS, "@file"]
        hint = f"{did_you_mean(argument, known)} One of: {', '.join(known)}".strip()
        raise UsageError(f"unknown templates {argument!r}", hint=hint)
    templates = tuple(line for line in (" ".join(line.split()) for line in _lines(argument[1:])) if line)
    without = [template for template in templates if placeholder(template) is None]
    if without or not templates:
        what = f"template {without[0]!r} has no placeholder" if without else f"no template in {argument!r}"
        raise UsageError(what, hint="Each line needs one of <object>, {} or {c}.")
    return templates


def _open_clip_metadata() -> ModuleType:
    """open_clip's tables of templates, loaded from their file alone: importing the package takes seconds."""
    package = importlib.util.find_spec("open_clip")
    locations = package.submodule_search_locations if package else None
    if not locations:
        raise UsageError("these templates come with open_clip", hint="python -m pip install open_clip_torch")
    spec = importlib.util.spec_from_file_location("_templates", Path(locations[0]) / "zero_shot_metadata.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _names(objects: Sequence[str] | None, vocabulary: Sequence[str]) -> tuple[list[str], list[str]]:
    if objects is not None:
        return list(objects), []
    if not vocabulary:
        raise UsageError(
            "the label has a placeholder, no objects were given, and this backbone has no vocabulary of its own",
            hint="Name the objects: --objects cat,dog, or --objects @names.txt",
        )
    names = list(dict.fromkeys(vocabulary))  # ImageNet's own list names two classes twice
    notes = [f"the placeholder is filled with the backbone's own {len(names)} names"]
    if len(names) < len(vocabulary):
        notes.append(f"{len(vocabulary) - len(names)} repeated names of that list are merged")
    return names, notes


def _refuse_duplicates(labels: Sequence[Label], by_prompts: bool) -> None:
    counts = Counter(label.prompts if by_prompts else label.text for label in labels)
    twice = [label.text for label in labels if counts[label.prompts if by_prompts else label.text] > 1]
    if twice:
        names = ", ".join(repr(text) for text in list(dict.fromkeys(twice))[:5])
        why = "the templates make these labels the same" if len(set(twice)) > 1 else "given more than once"
        raise UsageError(
            f"duplicate labels: {names} ({why})",
            hint="Two equal labels share one score between them: give each label and object once.",
        )


def _suspicions(literals: Iterable[str]) -> list[str]:
    notes = []
    for label in literals:
        almost = _ALMOST.search(label)
        if almost:
            notes.append(
                f"label {label!r} is taken literally: {almost[0]} is not a placeholder (<object>, {{}} and {{c}} are)"
            )
    return notes


def _lines(path: str) -> list[str]:
    try:
        return read_text(Path(path).expanduser(), "utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        decoding = isinstance(error, UnicodeDecodeError)
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text" if decoding else str(error)
        raise UsageError(f"cannot read {path}: {reason}", hint="Give a text file with one entry a line.") from error
