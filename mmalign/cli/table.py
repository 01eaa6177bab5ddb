"""Tables as aligned plain text.

emit(table(["name", "summary"], [["contrastive", "Pull matching pairs together"]]))
"""

import shutil
import sys
import textwrap
from collections.abc import Sequence

from mmalign.printable import printable


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns two spaces apart. On a terminal, the last column wraps to its width; elsewhere nothing is wrapped."""
    cells = [[name.upper() for name in header], *([printable(str(value)) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    indent = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    lines = []
    for row in cells:
        last = textwrap.wrap(row[-1], room) if room >= 20 and len(row[-1]) > room else [row[-1]]
        left = "".join(text.ljust(width + 2) for text, width in zip(row[:-1], widths[:-1], strict=True))
        lines += [f"{left}{last[0]}".rstrip(), *(" " * indent + text for text in last[1:])]
    return "\n".join(lines)
