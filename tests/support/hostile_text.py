"""Text that would command a terminal, and a way to see that none of it came through, by Unicode's own tables."""

import unicodedata

ESC, BEL, CSI_C1, OVERRIDE, ISOLATE = "\x1b", "\x07", "\x9b", "\u202e", "\u2066"
EVIL = f"a{ESC}[31mred{ESC}]0;title{BEL} {CSI_C1}2J {OVERRIDE}txt.exe{ISOLATE} \x7f\r\b\u2028 end"
_BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def obeyed(text: str) -> set[str]:
    """Characters that a terminal takes for commands."""
    return {
        c
        for c in text
        if c not in "\n\t"
        and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in _BIDI)
    }
