"""Finds and opens images from anywhere, and reports whatever is wrong with them.

    image = open_image(ImageRef("photo.jpg"))                  # PIL, RGB, upright, on white; or BadSample
    paths, problems = find_images(["photos/", "more/*.png"])

Pixels are decoded at full size, because JPEG's `draft` mode would change what an evaluation sees. ICC profiles are not
applied, as in open_clip and transformers.
"""

import glob
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmalign.contract.examples import ImageRef
from mmalign.errors import BadSample

if TYPE_CHECKING:
    from PIL.Image import Image

# The formats of the web and of cameras, each with a hardened decoder. TIFF, PSD, FITS, EPS and some forty others that
# Pillow reads cause most of its security advisories and hold hardly any training data.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"})
# These are pictures too, so a user expects them to be read: they are counted as lost.
UNREAD_SUFFIXES = frozenset(
    {".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".svg", ".ico", ".psd", ".tga", ".ppm", ".pgm",
     ".pbm", ".exr", ".hdr", ".dds", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
)  # fmt: skip
MAX_PIXELS = 64_000_000
MAX_BYTES = 100_000_000
# Resizing the shorter side of a 1 x 60,000 strip to 224 px would need 9 GB.
MAX_ASPECT = 100

_ORIENTATION = 0x0112
_warning_filters = threading.Lock()  # `warnings.catch_warnings` swaps process-wide state


def open_image(ref: ImageRef, max_pixels: int = MAX_PIXELS) -> "Image":
    """Read and decode one image to RGB, upright by its EXIF orientation, transparency flattened on white.

    The first frame of an animation; 16-bit grey by its high byte. Raises BadSample, and nothing else, with the path and
    the reason. The size is checked from the header, before a pixel is decoded.
    """
    name = describe(ref)
    data = ref.data if ref.data is not None else _read(ref, name)
    return image_from_bytes(data, name, max_pixels)


def image_from_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> "Image":
    """As `open_image`, from bytes; errors call the image `name`."""
    if not data:
        raise BadSample(f"{name}: empty file")
    if len(data) > MAX_BYTES:
        raise BadSample(f"{name}: {len(data):,} bytes, over the limit of {MAX_BYTES:,}")
    try:
        image = _open_header(data)
        width, height = image.size
        if width * height > max_pixels:
            raise BadSample(f"{name}: {width} x {height} pixels, over the limit of {max_pixels:,}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise BadSample(f"{name}: {width} x {height} pixels, an aspect over {MAX_ASPECT}:1")
        image.load()
        return _upright(image, _flatten(image))
    except BadSample:
        raise
    except Exception as error:
        # Decoders raise many errors for hostile bytes: OSError, SyntaxError, ValueError, struct.error, MemoryError, ...
        raise BadSample(f"{name}: {_reason(error)}") from error


def describe(ref: ImageRef) -> str:
    """The name of an image in errors: its path, and its offset inside an archive."""
    return ref.path if ref.size is None else f"{ref.path}@{ref.offset}"


def find_images(sources: Iterable[str | Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return (images, problems as (source, reason)): files as given, folders recursively, globs expanded; each image
    once.

    A file that is named itself is kept whatever its suffix; folders and globs give files with one of IMAGE_SUFFIXES,
    sorted.
    """
    images: dict[Path, None] = {}
    problems = []
    for source in map(str, sources):
        path = Path(source).expanduser()
        if path.is_dir():
            matches = _images_below(path)
            reason = f"no image in the folder ({', '.join(sorted(IMAGE_SUFFIXES))})"
        elif path.exists():
            matches, reason = [path], ""
        elif glob.has_magic(source):
            matches = _images_of_glob(str(path))
            reason = "the pattern matches no image"
        else:
            matches, reason = [], "no such file or folder"
        if not matches:
            problems.append((source, reason))
        images.update(dict.fromkeys(matches))
    return list(images), problems


class LeftOut(NamedTuple):
    """A file that gives no picture, and why. lost: whether it is, or may contain, a picture that somebody expects."""

    path: Path
    reason: str
    lost: bool


def survey(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """(pictures, the rest): every file below the folder and every link to a folder, each once; pictures sorted.

    Links to folders are not followed: they may lead back here, or to the whole disk.
    """
    pictures: list[Path] = []
    rest: list[LeftOut] = []

    def refused(error: OSError) -> None:
        rest.append(LeftOut(Path(str(error.filename)), f"folder cannot be read: {error.strerror}", True))

    for parent, folders, files in os.walk(folder, onerror=refused):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        rest += [LeftOut(Path(parent, name), "link to a folder, which is not followed", True) for name in links]
        is_hidden = any(is_litter(level) for level in Path(parent).relative_to(folder).parts)
        for name in files:
            why = LeftOut(Path(parent, name), "hidden file", False) if is_hidden else _why_no_picture(parent, name)
            if why is None:
                pictures.append(Path(parent, name))
            else:
                rest.append(why)
    return sorted(pictures), rest


def unread_format(suffix: str) -> str:
    """The reason why a picture with this suffix is left out, or "" where there is none."""
    return f"picture in a format that is not read ({suffix})" if suffix in UNREAD_SUFFIXES else ""


def _why_no_picture(parent: str, name: str) -> LeftOut | None:
    path, suffix = Path(parent, name), os.path.splitext(name)[1].lower()
    if name.startswith("."):
        return LeftOut(path, "hidden file", False)
    if suffix in IMAGE_SUFFIXES:
        return None
    unread = unread_format(suffix)
    return LeftOut(path, unread or f"not a picture ({suffix[:12] or 'no suffix'})", bool(unread))


def is_litter(folder: str) -> bool:
    return folder.startswith(".") or folder == "__MACOSX"


def is_image_name(name: str) -> bool:
    """Whether a file name has one of IMAGE_SUFFIXES, in any case, and is not hidden (such as macOS's ._ files)."""
    base = os.path.basename(name)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES


def _images_below(folder: Path) -> list[Path]:
    return survey(folder)[0]


def _images_of_glob(pattern: str) -> list[Path]:
    paths: list[Path] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            paths += _images_below(Path(match))
        elif is_image_name(match):
            paths.append(Path(match))
    return paths


def _read(ref: ImageRef, name: str) -> bytes:
    try:
        # Without this check, reading a named pipe would wait for ever, and opening a device might do anything.
        if not stat.S_ISREG(os.stat(ref.path).st_mode):
            raise BadSample(f"{name}: not a regular file")
        with open(ref.path, "rb") as file:
            file.seek(ref.offset)
            data = file.read(MAX_BYTES + 1 if ref.size is None else min(ref.size, MAX_BYTES + 1))
    except FileNotFoundError as error:
        raise BadSample(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, a negative offset
        raise BadSample(f"{name}: {_reason(error)}") from error
    if ref.size is not None and len(data) < min(ref.size, MAX_BYTES + 1):
        raise BadSample(f"{name}: the archive ends after {len(data)} of {ref.size} bytes")
    return data


def _open_header(data: bytes) -> "Image":
    from PIL import Image

    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes (our own limit is lower) and odd metadata
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _flatten(image: "Image") -> "Image":
    """RGB on white, from any mode of these formats."""
    from PIL import Image

    if image.mode.startswith("I"):
        return _flatten_deep_grey(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB")


def _flatten_deep_grey(image: "Image") -> "Image":
    """16-bit grey by its high byte, as Pillow reads 16-bit colour; `convert` alone would clip it to white."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
    grey = (values >> 8).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _upright(image: "Image", flat: "Image") -> "Image":
    """`flat` rotated by the orientation that `image` states; with unreadable metadata it is unchanged, as in
    browsers."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # the EXIF parser raises as many kinds of error as the decoders
        orientation = None
    return flat.transpose(turns[orientation]) if orientation in turns else flat


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError
    from PIL.Image import DecompressionBombError

    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, WebP, GIF or BMP image, or its header is damaged"
    if isinstance(error, DecompressionBombError):
        return "far more pixels than the limit"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip() or type(error).__name__
