"""Makes text of data, models, files and plugins safe to print: a caption may contain terminal commands.

    printable("a\\x1b[31mb\\nc")                 # "a\\\\x1b[31mb\\\\nc": for one line, such as a file name
    printable(text, lines=True)                # keeps line breaks and tabs
    json_text({"text": text})                  # JSON with the same content: unsafe characters become \\uXXXX

These characters are escaped: control characters (C0, DEL and C1), which make terminals colour, move, retitle and paste;
explicit bidirectional formatting (CVE-2021-42574), which shows text in another order than it is stored; line and
paragraph separators; and lone surrogates, which cannot be encoded. All others stay, including the joiners of emoji and
of Arabic.
"""

import json
import math
import re
from typing import Any

_UNSAFE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES, _IN_ONE_LINE = re.compile(f"[{_UNSAFE}]"), re.compile(f"[{_UNSAFE}\t\n]")


class Printable(str):
    """Text that is safe already and may contain colours; `printable` returns it unchanged."""

    __slots__ = ()


def printable(text: str, *, lines: bool = False) -> str:
    """The text with unsafe characters escaped. lines: keep line breaks and tabs."""
    if isinstance(text, Printable):
        return text
    return (_IN_LINES if lines else _IN_ONE_LINE).sub(_code, text)


def json_text(document: Any, *, indent: int | None = None) -> str:
    """The document as JSON in readable Unicode, with unsafe characters escaped. NaN and infinity become null."""
    text = json.dumps(without_nan(document), ensure_ascii=False, indent=indent, default=str)
    return _IN_LINES.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def without_nan(document: Any) -> Any:
    """The document with None for each number that is NaN or infinite, because JSON cannot express these."""
    if isinstance(document, dict):
        return {key: without_nan(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [without_nan(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def with_nan(figures: Any) -> Any:
    """The inverse of `without_nan` for figures: None becomes NaN."""
    if isinstance(figures, dict):
        return {key: with_nan(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [with_nan(value) for value in figures]
    return math.nan if figures is None else figures


def _code(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()
