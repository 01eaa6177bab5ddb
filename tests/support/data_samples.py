"""Images, archives and a processor that the data tests share."""

import io
import random
import struct
import tarfile
import zlib
from pathlib import Path

import torch
from PIL import Image

from mmalign.contract.backbone import TokenizedText
from mmalign.contract.examples import ImageRef, ImageText


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (16, 12)) -> Image.Image:
    """Smooth colours, so that JPEG keeps them."""
    rng = random.Random(seed)
    corners = Image.new("RGB", (2, 2))
    corners.putdata([tuple(rng.randrange(256) for _ in range(3)) for _ in range(4)])
    return corners.resize(size, Image.Resampling.BILINEAR)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand: `rows` are the filtered scan lines."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


def bomb() -> bytes:
    """13,000 x 13,000 black pixels at one bit each, in about 21 KB."""
    side, row = 13_000, bytes(1 + 13_000 // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def write_tar(path: Path, members: list[tuple[str, bytes]], special: list[tarfile.TarInfo] = ()) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in special:
            archive.addfile(info)
    return path


class TinyProcessor:
    """Mean colour plus what augmentation draws; one id a word, at most three."""

    context_length = 3

    def image(self, image: Image.Image, rng: random.Random | None = None) -> torch.Tensor:
        mean = torch.tensor(image.resize((1, 1)).getpixel((0, 0))) / 255
        return (mean + (rng.random() if rng else 0.0))[:, None, None]

    def text(self, text: str) -> TokenizedText:
        ids = [len(word) for word in text.split()]
        return TokenizedText(torch.tensor(ids[:3]), max(0, len(ids) - 3))


class Pictures:
    """A data set of `size` pictures; those in `broken` are cut short."""

    def __init__(self, size: int, broken: tuple[int, ...] = ()) -> None:
        self.size, self.broken = size, broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> ImageText:
        data = encoded(picture(index), "PNG")
        ref = ImageRef(f"{index}.png", data=data[:50] if index in self.broken else data)
        return ImageText(f"k{index}", ref, "a word " * (index % 3 + 1), group="" if index % 2 else "even")
