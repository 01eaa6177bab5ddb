"""Finds the data set that a name, a path or a reference with a prefix means.

entry, path = find_dataset(catalog, "pairs.jsonl", ("preference", "ranking"))     # path: None for a name
entry, path = find_dataset(catalog, "hf:org/pairs", ("preference", "ranking"))    # path: "hf:org/pairs"
"""

from collections.abc import Mapping, Set
from importlib import import_module
from pathlib import Path
from typing import Any

from mmalign.contract.capabilities import TEXT_PAIRS, Pair, in_words
from mmalign.contract.specs import Entry
from mmalign.errors import UsageError, did_you_mean
from mmalign.registry.catalog import Catalog


def find_dataset(
    catalog: Catalog,
    name: str | None,
    kinds: tuple[str, ...],
    options: Mapping[str, Any],
    pairs: Set[Pair] = TEXT_PAIRS,
) -> tuple[Entry, str | None]:
    """A data set by name, or the reader for a path, or the default of the first kind that has one.

    Of several possible readers, the one that recognises the data is used. options: the data set's, as given. pairs: the
    contents of prompts and answers that a default data set must have. A local path is returned absolute. Raises
    UsageError.
    """
    if name is None:
        default = catalog.default_data(kinds, pairs)
        if default is not None:
            return default, None
        of_kinds = {pair for kind in kinds if (entry := catalog.lookup("examples", kind)) for pair in entry.spec.pairs}
        wanted = sorted(of_kinds & pairs)
        contents = "" if set(wanted) & TEXT_PAIRS else f" that hold {' or '.join(map(in_words, wanted))}"
        raise UsageError(
            f"no default data for {' or '.join(kinds)} examples{contents}",
            hint="Name a data set or a path: --dataset",
        )
    if any(entry.is_called(name) for entry in catalog.entries("datasets")):
        return catalog.find("datasets", name), None
    prefix, path = _place(catalog, name)
    if path:
        readers = [
            entry
            for entry in catalog.entries("datasets")
            if entry.spec.kind in kinds and (prefix in entry.spec.prefixes if prefix else entry.spec.reads_files)
        ]
        chosen = (entry for entry in readers if len(readers) > 1 and recognises(entry, path, options))
        if readers:
            return next(chosen, readers[0]), path
        raise UsageError(
            f"nothing here reads {' or '.join(kinds)} examples from {f'{prefix}:' if prefix else 'files'}",
            hint="Try: mmalign list datasets",
        )
    known = [entry.spec.name for entry in catalog.entries("datasets")]
    hint = f"{did_you_mean(name, known)} Give a name (mmalign list datasets), a path, or hf:ORG/NAME.".strip()
    raise UsageError(f"unknown dataset {name!r}", hint=hint)


def recognises(entry: Entry, path: str, options: Mapping[str, Any]) -> bool:
    """Whether a reader recognises its kind in the data; raises DataError."""
    module, _, name = entry.spec.recognises.partition(":")
    return bool(name) and vars(import_module(module))[name](path, options) == entry.spec.kind


def _place(catalog: Catalog, name: str) -> tuple[str, str]:
    """(prefix, path or reference); both are empty where `name` looks like neither a path nor a reference."""
    prefix, _, rest = name.partition(":")
    known = {prefix for entry in catalog.entries("datasets") for prefix in entry.spec.prefixes}
    if rest and prefix in known:
        if not rest.startswith(("./", "../", "/", "~")):
            return prefix, name
        name = rest
    path = Path(name).expanduser()
    looks_like_a_path = path.exists() or any(character in name for character in "/\\*{.~")
    return "", str(path.absolute()) if looks_like_a_path else ""
