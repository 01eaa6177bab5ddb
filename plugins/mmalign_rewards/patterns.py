"""Regular expressions with a time limit: `after_last(MARKER, text, seconds)`, `matches(pattern, text, seconds)`.

The package regex understands all that `re` does and more, and can stop. Without a limit, an expression with nested
repetition, such as (a+)+$, would run for ever on an unlucky answer.
"""

from typing import Annotated, Any

import regex
from pydantic import AfterValidator

from mmalign.errors import RewardError


def _compiles(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Expression = Annotated[str, AfterValidator(_compiles)]


def matches(pattern: Any, text: str, *, full: bool, seconds: float) -> bool:
    """pattern: compiled. Raises RewardError at the time limit."""
    try:
        match = pattern.fullmatch(text, timeout=seconds) if full else pattern.search(text, timeout=seconds)
    except TimeoutError as error:
        raise _too_slow(pattern, text, seconds) from error
    return match is not None


def after_last(pattern: Any, text: str, *, seconds: float) -> str | None:
    """The text behind the last match; None where nothing matches. Raises RewardError at the time limit."""
    last = None
    try:
        for match in pattern.finditer(text, timeout=seconds):
            last = match
    except TimeoutError as error:
        raise _too_slow(pattern, text, seconds) from error
    return None if last is None else text[last.end() :]


def _too_slow(pattern: Any, text: str, seconds: float) -> RewardError:
    return RewardError(
        f"the expression {pattern.pattern!r} takes more than {seconds:g} s on {text[:200]!r}",
        hint="Write it without a repetition inside a repetition, such as (a+)+, or raise `seconds`.",
    )
