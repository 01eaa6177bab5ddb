"""Removes secrets from output that users may share.

redact({"url": "https://me:hunter2@host/x"})      # {"url": "https://[redacted]@host/x"}
"""

import re
from typing import Any

_MARK = "[redacted]"
_SECRET_WORD = r"(?:token|secret|password|passwd|api_?-?key|credentials?)"
_PATTERNS = (
    (re.compile(r"(?<=://)[^/@\s]+(?=@)"), _MARK),  # user:password@host
    (re.compile(r"\b(?:hf|ghp|gho|ghs|glpat|github_pat|xox[abp]|pypi)[_-][A-Za-z0-9_-]{8,}"), _MARK),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), _MARK),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), _MARK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"), _MARK),  # JSON web tokens
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/-]{8,}=*"), rf"\1 {_MARK}"),
    (re.compile(rf"(?i)(\b(?:[A-Za-z0-9]+[_-])*{_SECRET_WORD}\s*[=:]\s*)[^\s,;&'\"]+"), rf"\1{_MARK}"),
)
_SECRET_KEY = re.compile(rf"(?i)(?:^|_|-){_SECRET_WORD}$")


def redact(value: Any) -> Any:
    """A copy with secrets replaced, found in strings by their form and in mappings also by the name of the key."""
    if isinstance(value, str):
        for pattern, replacement in _PATTERNS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {
            key: _MARK if isinstance(key, str) and _SECRET_KEY.search(key) and item else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return value
