"""Pictures in the rows of tables, as published data sets write them, beside prompts and answers or as one of them.

    row = with_pictures({"image": "cat.jpg", "completion": "a cat"}, Source(path, 1, root), "completion")
    # {"prompt": {"image": {"path": "/data/cat.jpg"}}, "completion": "a cat", ...}, or why it cannot be used
    as_content({"image": {"path": "/data/cat.jpg"}})       # an ImageRef; texts and messages as `as_turns` gives them

A picture is a path inside the data's folder; what `datasets` writes into parquet, {bytes, path}; a part of a message,
{"type": "image", "image": ...} or {"type": "image_url", "image_url": {"url": ...}}; or a `data:` URI. A web address is
refused. Read as they are: a column `image` or `images` beside answers, pictures as the answers themselves, Pick-a-Pic
(caption, jpg_0, jpg_1, label_0, label_1) and HPD v2 (prompt, image_path, human_preference or rank).
"""

import base64
import binascii
import bisect
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.contract.examples import Content, ImageRef
from mmalign.language.messages import as_turns
from mmalign_data.parquet_files import open_parquet, picture_bytes

_OF_PROMPTS = ("image", "images")
_OF_ANSWERS = ("completion", "chosen", "rejected", "completions")
_PICK_A_PIC = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
_HPD_PATHS = ("image_path", "file_path")
_PLACEHOLDERS = ("", "<image>", "<|image|>")  # texts that only say where the picture stands


class Source(NamedTuple):
    """Where a row is: its file, its number from 1, and the folder that relative paths start from."""

    file: Path
    number: int
    root: Path


class _Wrong(Exception):
    """Why a picture cannot be used."""


def with_pictures(row: Mapping[str, Any], source: Source, kind: str) -> dict[str, Any] | str:
    """The row with its pictures as {"image": where it is} in TRL's columns; rows without pictures stay as they are. A
    string says why the row cannot be used."""
    try:
        if all(name in row for name in _PICK_A_PIC):
            return _pick_a_pic(row, source, kind)
        paths = next((name for name in _HPD_PATHS if isinstance(row.get(name), list)), "")
        if paths and ("human_preference" in row or "rank" in row):
            return _hpd(row, source, paths)
        row = _unwrapped(row)
        row |= {name: _answer(row[name], name, source) for name in _OF_ANSWERS if name in row}
        for name in _OF_PROMPTS:
            if row.get(name) not in (None, "", []):
                if isinstance(row[name], list) and len(row[name]) > 1:
                    raise _Wrong(f"the column {name} holds several pictures: models here read one")
                picture = _picture(row[name], name, source)
                if picture is None:
                    raise _Wrong(f"the column {name} holds no picture")
                text = row.get("prompt")
                if text is not None and not (isinstance(text, str) and text.strip() in _PLACEHOLDERS):
                    raise _Wrong("a prompt of a picture and a text: models read one (dataset.pictures=false: the text)")
                return _answered_by_text({**row, "prompt": picture})
        if not isinstance(row.get("prompt"), str | None):
            row["prompt"] = _prompt(row["prompt"], source)
        return _answered_by_text(row)
    except _Wrong as wrong:
        return str(wrong)


def as_content(value: Any) -> Content:
    """A field of a row in normal form, as an example holds it; raises BadSample where a cell cannot be read."""
    if not isinstance(value, Mapping):
        return as_turns(value)
    where = value["image"]
    if "path" in where:
        return ImageRef(where["path"])
    if "data" in where:
        return ImageRef(where["name"], data=base64.b64decode(where["data"]))
    file, column, number, index = where["cell"]
    return ImageRef(f"{file}:{number}", data=_cell(file, column, number, index))


def _picture(value: Any, column: str, source: Source, index: int = -1) -> dict[str, Any] | None:
    """None for what is no picture. Strings are paths or addresses. index: place in a list; -1: none."""
    if isinstance(value, list | tuple) and len(value) == 1:
        return _picture(value[0], column, source, 0)
    if isinstance(value, bytes):
        return _in_cell(column, source, index)
    if isinstance(value, str):
        return _at(value, source)
    if not isinstance(value, Mapping):
        return None
    if value.get("bytes") is not None:
        return _in_cell(column, source, index)
    if value.get("type") == "image_url":
        address = value.get("image_url")
        return _picture(address.get("url") if isinstance(address, Mapping) else address, column, source, index)
    inner = next((value[name] for name in ("image", "path", "url") if value.get(name)), None)
    return None if inner is None else _picture(inner, column, source, index)


def _answer(value: Any, column: str, source: Source) -> Any:
    """As given; a picture as {"image": ...}. A string is a text, unless it is a `data:` URI."""
    if isinstance(value, list) and column == "completions":
        return [_one_answer(item, column, source, index) for index, item in enumerate(value)]
    return _one_answer(value, column, source, -1)


def _one_answer(value: Any, column: str, source: Source, index: int) -> Any:
    pictured = isinstance(value, bytes | Mapping) or (isinstance(value, str) and value.startswith("data:image/"))
    return (_picture(value, column, source, index) or value) if pictured else value


def _unwrapped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Conversations of one picture by the user, and perhaps an answer: the picture as `prompt`, the answer as
    `completion`. A part that only says that there is a picture stands for the one in the column of pictures."""
    messages = row.get("messages")
    if isinstance(messages, list) and _parts(messages):
        first = next((n for n, m in enumerate(messages) if _role(m) == "assistant"), len(messages))
        others = {name: value for name, value in row.items() if name != "messages"}
        row = {**others, "prompt": messages[:first], "completion": messages[first:]}
    if any(row.get(name) not in (None, "", []) for name in _OF_PROMPTS) and isinstance(row.get("prompt"), list):
        parts = _parts(row["prompt"])
        # Tables with one schema for all parts hold null under the other keys.
        bare = parts and not any(
            value for part in _pictures_of(parts) for name, value in part.items() if name != "type"
        )
        if bare and not _texts_of(parts) and len(row["prompt"]) == 1:
            row = {**row, "prompt": None}
    return dict(row)


def _answered_by_text(row: dict[str, Any]) -> dict[str, Any]:
    """Behind a picture, one turn of the assistant that is text is that text."""
    if not isinstance(row.get("prompt"), Mapping):
        return row
    return {name: _said(value) if name in _OF_ANSWERS else value for name, value in row.items()}


def _said(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1 and _role(value[0]) == "assistant":
        content = value[0].get("content")
        texts = _texts_of(_parts(value))
        return content if isinstance(content, str) else texts[0] if len(texts) == 1 else value
    return (
        [_said(item) for item in value]
        if isinstance(value, list) and all(isinstance(v, list) for v in value)
        else value
    )


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def _parts(messages: list[Any]) -> list[Mapping[str, Any]]:
    """The parts of all messages whose content is a list."""
    contents = (message.get("content") for message in messages if isinstance(message, Mapping))
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, Mapping)]


def _pictures_of(parts: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [part for part in parts if str(part.get("type", "")).startswith("image")]


def _texts_of(parts: list[Mapping[str, Any]]) -> list[str]:
    return [str(part["text"]) for part in parts if part.get("type") == "text" and str(part.get("text") or "").strip()]


def _prompt(value: Any, source: Source) -> Any:
    """A picture; or messages, of which one by the user with nothing but a picture is that picture."""
    if isinstance(value, bytes | Mapping):
        return _picture(value, "prompt", source) or value
    if isinstance(value, list) and _pictures_of(parts := _parts(value)):
        pictures = _pictures_of(parts)
        plain = any(isinstance(message, Mapping) and isinstance(message.get("content"), str) for message in value)
        if _texts_of(parts) or plain or len(pictures) > 1:
            raise _Wrong("a prompt of several pictures, or of a picture and a text: models here read one of them")
        return _picture(pictures[0], "prompt", source) or value
    return value


def _pick_a_pic(row: Mapping[str, Any], source: Source, kind: str) -> dict[str, Any] | str:
    """Two pictures for a caption; labels 1 and 0, or one half each for a tie (Kirstain 2023)."""
    pictures = [_picture(row[name], name, source) for name in ("jpg_0", "jpg_1")]
    if None in pictures:
        raise _Wrong("jpg_0 or jpg_1 holds no picture")
    try:
        labels = [float(row["label_0"]), float(row["label_1"])]
    except (TypeError, ValueError):
        raise _Wrong("label_0 or label_1 is not a number") from None
    ranks = [1.0 if label >= max(labels) else 2.0 for label in labels]
    changed = {**row, "prompt": row["caption"], "completions": pictures, "ranks": ranks}
    if kind != "preference":
        return changed
    if ranks[0] == ranks[1]:
        raise _Wrong("a tie, which is no preference (as a ranking it can be learnt from: --objective reward)")
    chosen, rejected = pictures if ranks[0] < ranks[1] else reversed(pictures)
    return {**changed, "chosen": chosen, "rejected": rejected}


def _hpd(row: Mapping[str, Any], source: Source, column: str) -> dict[str, Any]:
    """Pictures for a prompt, with a rank each, or 1 for the preferred one (Wu 2023)."""
    pictures = [_picture(path, column, source, index) for index, path in enumerate(row[column])]
    given = row.get("rank", row.get("human_preference"))
    if None in pictures or not isinstance(given, list) or len(given) != len(pictures):
        raise _Wrong(f"{column} and the preferences are not lists of one length")
    ranks = given if "rank" in row else [1 if preferred else 2 for preferred in given]
    changed = {**row, "completions": pictures, "ranks": ranks}
    if len(pictures) == 2 and ranks[0] != ranks[1]:
        first, second = pictures if ranks[0] < ranks[1] else reversed(pictures)
        changed |= {"chosen": first, "rejected": second}
    return changed


def _at(value: str, source: Source) -> dict[str, Any]:
    if value.startswith("data:"):
        head, _, data = value.partition(",")
        try:
            base64.b64decode(data, validate=True)
        except binascii.Error:
            raise _Wrong("a data: URI that is not base64") from None
        if not head.startswith("data:image/") or not head.endswith(";base64"):
            raise _Wrong("a data: URI that is no picture in base64")
        return {"image": {"data": data, "name": f"{source.file.name}:{source.number}"}}
    if value.startswith(("http://", "https://")):
        raise _Wrong("a web address for a picture: nothing is downloaded; save it beside the data")
    root = source.root.resolve()
    path = (root / value.removeprefix("file://")).resolve()
    if not path.is_relative_to(root):
        raise _Wrong(f"a picture outside of {source.root} (--set dataset.image_root=FOLDER)")
    return {"image": {"path": str(path)}}


def _in_cell(column: str, source: Source, index: int) -> dict[str, Any]:
    if source.file.suffix.lower() != ".parquet":
        raise _Wrong(f"a picture in bytes inside {source.file.suffix}: they are read from .parquet alone")
    return {"image": {"cell": [str(source.file), column, source.number, index]}}


def _cell(file: str, column: str, number: int, index: int) -> bytes:
    starts = _starts(file)
    group = bisect.bisect_right(starts, number - 1) - 1
    return picture_bytes(file, column, group, number - 1 - starts[group], index)


@functools.lru_cache(maxsize=16)
def _starts(file: str) -> list[int]:
    """The number of rows before each row group."""
    metadata, before = open_parquet(Path(file)).metadata, [0]
    for group in range(metadata.num_row_groups):
        before.append(before[-1] + metadata.row_group(group).num_rows)
    return before[:-1]
