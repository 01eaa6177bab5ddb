"""Refuse model configs that name code, and keep local loading off the network.

refuse_code(config, path)          # raises CheckpointError that names the key
with offline(): ...                # the hub's client answers "offline" instead of connecting
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmalign.errors import CheckpointError

_CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "_target_", "custom_pipelines"})
_BUILT_IN_ATTENTION = (None, "eager", "sdpa")


def refuse_code(config: Any, path: Path | str) -> None:
    """Raise CheckpointError where a config, at any depth, names code to run.

    An attention implementation other than the built-in ones is a kernel that transformers would fetch and run.
    """
    for key, where, value in _items(config, ""):
        kernel = "attn_implementation" in key and (key.endswith("_internal") or value not in _BUILT_IN_ATTENTION)
        if key in _CODE_KEYS or kernel:
            raise CheckpointError(
                f"{path} asks for code to be run: {where} = {value!r}",
                hint=f"mmalign runs no code that a model folder names. Remove {key!r} if you trust the weights.",
            )


def _items(node: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
    """(key, path of the key, value) of every mapping in a parsed JSON document."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            where = f"{prefix}.{key}" if prefix else str(key)
            yield str(key), where, value
            yield from _items(value, where)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _items(value, f"{prefix}[{index}]")


@contextmanager
def offline() -> Iterator[None]:
    """Within, whatever asks the hub's client for a file that is not on this machine fails at once."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
