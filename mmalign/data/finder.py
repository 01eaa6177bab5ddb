"""Which data set a name or a path means.

entry, path = find_dataset(catalog, "pairs.jsonl", ("preference", "ranking"))     # path: None for a name
"""

from importlib import import_module
from pathlib import Path

from mmalign.catalog import Catalog
from mmalign.errors import UsageError, did_you_mean
from mmalign.specs import Entry


def find_dataset(catalog: Catalog, name: str | None, kinds: tuple[str, ...]) -> tuple[Entry, Path | None]:
    """A data set by name, or the reader for a path, or the default of the first kind that has one.

    Where readers of several kinds could be meant, the one that recognises the file. Raises UsageError.
    """
    if name is None:
        for kind in kinds:
            for entry in catalog.entries("datasets"):
                if kind in entry.spec.default_for:
                    return entry, None
        raise UsageError(
            f"no default data for {' or '.join(kinds)} examples", hint="Name a data set or a path: --dataset"
        )
    if any(name in (entry.spec.name, entry.qualified) for entry in catalog.entries("datasets")):
        return catalog.find("datasets", name), None
    path = Path(name).expanduser()
    if path.exists() or any(character in name for character in "/\\*{.~"):
        readers = [
            entry for entry in catalog.entries("datasets") if entry.spec.reads_files and entry.spec.kind in kinds
        ]
        if readers:
            return next((entry for entry in readers if len(readers) > 1 and recognises(entry, path)), readers[0]), path
        raise UsageError(
            f"nothing here reads {' or '.join(kinds)} examples from files", hint="Try: mmalign list datasets"
        )
    known = [entry.spec.name for entry in catalog.entries("datasets")]
    hint = f"{did_you_mean(name, known)} Give a name (mmalign list datasets) or a path.".strip()
    raise UsageError(f"unknown dataset {name!r}", hint=hint)


def recognises(entry: Entry, path: Path) -> bool:
    """Whether a reader says that its kind is in the file; raises DataError."""
    module, _, name = entry.spec.recognises.partition(":")
    return bool(name) and vars(import_module(module))[name](str(path)) == entry.spec.kind
