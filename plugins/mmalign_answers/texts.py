"""Texts on the command line: as arguments, from @FILE, or from standard input; and how they are shown there."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.contract.examples import ImageRef
from mmalign.data.images import describe
from mmalign.errors import UsageError
from mmalign.reading import read_text

if TYPE_CHECKING:
    from mmalign.contract.examples import Content


def read_texts(arguments: tuple[str, ...], what: str) -> Iterator[str]:
    """As given; @FILE and - stand for one a line, empty lines left out. what: "prompt" or the like, for errors.

    Raises UsageError for a file that cannot be read.
    """
    for argument in arguments:
        if argument == "-":
            lines = sys.stdin.read().splitlines()
        elif argument.startswith("@"):
            try:
                lines = read_text(Path(argument[1:]).expanduser()).splitlines()
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"{what}s {argument}: {error}", hint=f"Give a UTF-8 file, one {what} a line."
                ) from error
        else:
            lines = [argument]
        yield from (line for line in lines if line.strip())


def one_line(content: "Content") -> str:
    """Text as it is, messages with their roles, on one line; of a picture its path."""
    if isinstance(content, ImageRef):
        return describe(content)
    text = content if isinstance(content, str) else " ".join(f"{m.role}: {m.content}" for m in content)
    return " ".join(text.split())
