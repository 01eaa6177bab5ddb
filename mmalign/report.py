"""Self-contained HTML reports: one file without scripts or requests, for light and dark displays.

    write_report(Path("report.html"), Path(__file__).with_name("mine.html"), {"title": "...", ...})
    page = render(template, context)                 # each template lists the names it needs at its top
    png_data_uri(figure); thumbnail_data_uri(image, 160)

A template extends base.html of mmalign/templates. jinja2 renders it with autoescape, so that a caption or a file name
cannot become markup, and undefined names are errors. The page's content security policy forbids all requests.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.files import write_atomically
from mmalign.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


def render(template: Path, context: Mapping[str, Any]) -> str:
    """The page from a template; raises jinja2.UndefinedError if the context lacks a name."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "value": value}
    return environment.get_template(template.name).render({"version": __version__, **context})


def write_report(path: Path, template: Path, context: Mapping[str, Any]) -> None:
    """Render a report and write it atomically; raises MmalignError if the file cannot be written."""
    page = render(template, context).encode("utf-8", "backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(page))


def png_data_uri(picture: "Figure | Image | bytes", dpi: int = 110) -> str:
    """A matplotlib figure (at `dpi` dots per inch), a PIL image or the bytes of a PNG file, as a data URI."""
    from PIL.Image import Image as PillowImage

    if isinstance(picture, bytes):
        return _data_uri(picture, "image/png")
    return _data_uri(
        _encode(picture, "PNG") if isinstance(picture, PillowImage) else png_bytes(picture, dpi), "image/png"
    )


def png_bytes(figure: "Figure", dpi: int = 110) -> bytes:
    """A matplotlib figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def thumbnail_data_uri(image: "Image", side: int = 160) -> str:
    """A JPEG of at most side x side pixels, as a data URI; does not change `image`."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return _data_uri(_encode(small, "JPEG"), "image/jpeg")


def percent(share: float) -> str:
    """0.6213 -> "62.1%"."""
    return f"{100 * share:.1f}%"


def value(item: object) -> str:
    """Floats with four significant digits, None as a dash, other values by `str`."""
    if item is None:
        return "-"
    return f"{item:.4g}" if isinstance(item, float) else str(item)


def _encode(image: "Image", kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
