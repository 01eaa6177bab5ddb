"""Regular expressions with a time limit: `after_last(MARKER, text, seconds)`, `matches(pattern, text, seconds)`.

The package regex, which understands what `re` does and more, can stop: an expression with nested repetition, such as
(a+)+$, would else take for ever on the one unlucky answer.
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
        found = pattern.fullmatch(text, timeout=seconds) if full else pattern.search(text, timeout=seconds)
    except TimeoutError as error:
        raise _too_slow(pattern, text, seconds) from error
    return found is not None


def after_last(pattern: Any, text: str, *, seconds: float) -> str | None:
    """What follows the last match; None where nothing matches. Raises RewardError at the time limit."""
    last = None
    try:
        for found in pattern.finditer(text, timeout=seconds):
            last = found
    except TimeoutError as error:
        raise _too_slow(pattern, text, seconds) from error
    return None if last is None else text[last.end() :]


def _too_slow(pattern: Any, text: str, seconds: float) -> RewardError:
    return RewardError(
        f"the expression {pattern.pattern!r} takes more than {seconds:g} s on {text[:200]!r}",
        hint="Write it without a repetition inside a repetition, such as (a+)+, or raise `seconds`.",
    )
