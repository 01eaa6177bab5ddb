"""Find the engine or environment that the section `rollout` names, with its options.

entry, config = find_named(catalog, "engine", {"name": "policy"}, such="rollout.engine.name=policy")
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmalign.config.validate import build
from mmalign.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmalign.contract.specs import Entry
    from mmalign.registry.catalog import Catalog


def find_named(catalog: "Catalog", kind: str, options: Mapping[str, Any], such: str) -> "tuple[Entry, BaseModel]":
    """The `kind` that `rollout.KIND` names, and its validated options; raises UsageError, PluginError.

    such: an example, for the hint where no name is given.
    """
    section, name = f"rollout.{kind}", options.get("name")
    if not isinstance(name, str):
        raise UsageError(f"{section} names no {kind}", hint=f"Try: --set {such}; all: mmalign list {kind}s")
    entry = catalog.find(f"{kind}s", name)
    own = {key: value for key, value in options.items() if key != "name"}
    hint = f"Its options: mmalign show {name} --options"
    return entry, build(catalog.load_config(entry), own, section, hint=hint)
