"""Indexes webdataset tars: finds each image with its caption from the headers alone. Nothing is ever extracted.

    index_tar(Path("shard-000.tar"), found, caption_column="")

A sample is the members whose names agree up to the first dot of the last path component: `dogs/7.jpg` with
`dogs/7.txt`, or with a `dogs/7.json` that has a caption. Where no picture has such a name, they agree up to the last
dot: `dogs/7.0001.jpg`. Links, devices, sparse members, unsafe and repeated names are counted and left out; a damaged
header costs the members up to the next sound one.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mmalign.data.images import unread_format
from mmalign.errors import DataError
from mmalign.reading import open_file, parse_json
from mmalign_data.pairs import READ, Found
from mmalign_data.tables import CAPTION_COLUMNS, captions_of

_IMAGES = ("jpg", "png", "jpeg", "webp", "gif", "bmp", "jfif", "jpe")  # in this order of preference, as in open_clip
_TEXTS = ("txt", "caption")
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")
_BLOCK = 512
_MAX_TEXT = 1_000_000
_MAX_READ = 16_000_000
_MAX_MEMBERS = 10_000_000

Places = dict[str, tuple[int, int]]  # extension -> (offset, size)


def index_tar(path: Path, found: Found, caption_column: str) -> None:
    """Add the pairs of one shard. Raises DataError if it is not an uncompressed tar."""
    where = found.source(str(path))
    try:
        with open_file(path) as file:
            _check_start(path, file)
            for key, places in _samples(path, file, found).items():
                _add(f"{path.name}:{key}", places, file, found, where, caption_column)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


class _Headers:
    """The file that tarfile reads: refuses a forged header that announces a gigabyte of metadata, instead of reading
    it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.name, self.mode = file.seek, file.tell, file.name, "rb"

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _check_start(path: Path, file: IO[bytes]) -> None:
    start = file.read(_BLOCK)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")):
        hint = "Images hardly compress; unpack to plain tar: gunzip FILE.tar.gz"
        raise DataError(f"{path}: compressed, so members cannot be read in random order", hint=hint)
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DataError(f"{path}: not a tar file: {error or 'empty'}") from error
    file.seek(0)


def _samples(path: Path, file: IO[bytes], found: Found) -> dict[str, Places]:
    """Members by sample, in the order of first appearance; interleaved members are brought together."""
    samples: dict[str, Places] = {}
    seen: set[str] = set()
    for member in _members(path, file, found):
        reason = _refuse(member, seen)
        seen.add(member.name)
        if reason:
            found.settle(found.skip(reason, f"{path.name}:{ascii(member.name[:300])[1:-1]}"))
        elif not member.isreg():
            found.ignore("folder")
        else:
            match = _NAME.fullmatch(member.name)
            if match is None or os.path.basename(member.name).startswith("__"):
                found.ignore("member without a sample's name")
            elif match[2].lower() in samples.setdefault(match[1], {}):
                found.settle(found.skip("duplicate name", f"{path.name}:{member.name}"))
            else:
                samples[match[1]][match[2].lower()] = (member.offset_data, member.size)
    return {key: places for first, group in samples.items() for key, places in _by_last_dot(first, group)}


def _by_last_dot(key: str, places: Places) -> Iterator[tuple[str, Places]]:
    """A group without a picture under its name, such as photo.00001.jpg and photo.00002.jpg, is several samples whose
    names have dots (webdataset #237). A group with one, such as photo.jpg beside photo.mask.png, is one sample."""
    if not any("." in extension for extension in places) or any(image in places for image in _IMAGES):
        yield key, places
        return
    samples: dict[str, Places] = {}
    for extension, place in places.items():
        inner, _, last = extension.rpartition(".")
        samples.setdefault(f"{key}.{inner}" if inner else key, {})[last] = place
    yield from samples.items()


def _members(path: Path, file: IO[bytes], found: Found) -> Iterator[tarfile.TarInfo]:
    """Every member with a sound header; each damaged stretch is counted once, and the search continues behind it.

    tarfile's own iteration silently stops at a damaged header, and goes backwards for ever at a negative size.
    """
    length = os.fstat(file.fileno()).st_size
    archive = tarfile.TarFile(fileobj=io.BytesIO(bytes(_BLOCK)))  # empty: the constructor reads a header already
    archive.fileobj = _Headers(file)  # type: ignore[assignment]  # only read from
    position, count, damaged = 0, 0, False
    while position < length:
        file.seek(position)
        if not file.read(_BLOCK).strip(b"\0"):
            position += _BLOCK
            continue
        file.seek(position)
        archive.offset = position
        try:
            member = tarfile.TarInfo.fromtarfile(archive)
            if archive.offset <= position or not 0 <= member.size <= length - member.offset_data:
                raise tarfile.ReadError(f"a member of {member.size} bytes")
        except Exception as error:  # hostile bytes: tarfile raises TarError, ValueError, OverflowError and others
            if not damaged:
                found.settle(found.skip("damaged header or cut off", f"{path.name}@{position}: {error}"))
            damaged = True
            position += _BLOCK
            continue
        position, count, damaged = archive.offset, count + 1, False
        if count > _MAX_MEMBERS:
            raise DataError(f"{path}: over {_MAX_MEMBERS:,} members", hint="Split it into smaller shards.")
        yield member


def _refuse(member: tarfile.TarInfo, seen: set[str]) -> str:
    """Why a member is left out, or ""."""
    name = member.name
    if member.issym() or member.islnk():
        return "link"
    if member.ischr() or member.isblk() or member.isfifo():
        return "device"
    if member.issparse():
        return "sparse member"
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or not name.isprintable():
        return "unsafe name"
    if len(name) > 4096 or any(len(component.encode()) > 255 for component in name.split("/")):
        return "name too long"
    return "duplicate name" if name in seen and member.isreg() else ""


def _add(name: str, places: Places, file: IO[bytes], found: Found, where: int, caption_column: str) -> None:
    """Add a sample, and count the outcome of each of its members."""
    image = next((extension for extension in _IMAGES if extension in places), "")
    caption = _caption_of(places, caption_column)
    used = {image, caption} - {""}
    if not image:
        unread = next((unread_format(f".{extension}") for extension in places if unread_format(f".{extension}")), "")
        if not unread and not caption:
            found.ignore("member of a sample without picture and caption", len(places))
            return
        found.settle(found.skip(unread or "no image", name), len(places))
        return
    outcome = _read(name, places, caption, image, file, found, where, caption_column)
    if outcome != READ:
        found.settle(outcome, len(places))
        return
    found.settle(READ, len(used))
    for extension in sorted(places.keys() - used):
        found.ignore(f"member of a sample beside its picture and caption (.{extension[:12]})")


def _caption_of(places: Places, caption_column: str) -> str:
    """The extension of the member that holds the caption, or ""; JSON comes first where its column is named."""
    order = ("json", *_TEXTS) if caption_column else (*_TEXTS, "json")
    return next((extension for extension in order if extension in places), "")


def _read(
    name: str,
    places: Places,
    caption: str,
    image: str,
    file: IO[bytes],
    found: Found,
    where: int,
    caption_column: str,
) -> str:
    """Add the captions of a sample: READ, or the reason why they cannot be used."""
    if not caption:
        return found.skip("no caption", name)
    offset, size = places[caption]
    if size > _MAX_TEXT:
        return found.skip(f"caption file over {_MAX_TEXT:,} bytes", name)
    file.seek(offset)
    try:
        text = file.read(size).decode("utf-8")
        texts = _json_captions(parse_json(text), caption_column) if caption == "json" else [text]
    except UnicodeDecodeError:
        return found.skip("caption is not UTF-8", name)
    except ValueError:
        return found.skip("broken JSON", name)
    return found.add_all(name, texts, where, *places[image]) if texts else found.skip("no caption", name)


def _json_captions(row: Any, column: str) -> list[str] | None:
    if not isinstance(row, Mapping):
        return None
    values = (row[name] for name in ((column,) if column else CAPTION_COLUMNS) if name in row)
    return captions_of(next(values, None))
