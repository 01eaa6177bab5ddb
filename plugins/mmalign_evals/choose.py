"""Chooses which evaluations run on a model and on which data, from names alone: no weights are loaded.

    tasks, left_out = select(catalog, source, ("perplexity",), "reviews.txt", split="", values={})
    tasks[0].open(catalog)          # a Part

Without names, all that fit; `left_out` gives the reason for the others.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmalign.contract.capabilities import ALONE, TEXT_PAIRS, VIEWS, Pair, in_words, parse_need, reads_sequences
from mmalign.contract.source import Source
from mmalign.contract.specs import Entry, Family
from mmalign.contract.trained import TrainedBy
from mmalign.data.contents import require_pairs
from mmalign.data.find import find_dataset, recognises
from mmalign.errors import IncompatibleError, UsageError
from mmalign.evaluate.parts import Part, open_part
from mmalign.registry.catalog import Catalog
from mmalign.registry.compat import Verdict, check_needs, require_needs

HELD_OUT = "validation"


@dataclass(frozen=True)
class Task:
    """One evaluation on one data set. split: empty for the held-out part, or for a file everything in it.

    path: of a file, or a reference such as hf:org/name; values: the data set's other options. own: whether the data are
    those of the model's own run. verdict: of the evaluation on the model: the view that it runs on, and the contents of
    the prompts and answers that it then reads.
    """

    evaluation: Entry
    dataset: Entry
    kind: str
    split: str
    values: Mapping[str, Any]
    path: str | None
    verdict: Verdict
    own: bool = False

    def open(self, catalog: Catalog) -> Part:
        """Raises UsageError for wrong options, and DataError."""
        return open_part(catalog, self.dataset, self.kind, self.split, self.values, self.path)

    def require_pairs(self, dataset: Any, name: str, reference: str) -> None:
        """Raises IncompatibleError for data with prompts or answers that the evaluation does not read on this model."""
        if _reads_sequences(self.evaluation):
            who = f"{self.evaluation.spec.name} on {reference} reads"
            require_pairs(who, dataset, self.verdict.pairs, name, "Name other data: --dataset FILE")


def select(
    catalog: Catalog,
    source: Source,
    names: Sequence[str],
    dataset: str | None,
    split: str,
    values: Mapping[str, Any],
    trained: TrainedBy | None = None,
) -> tuple[list[Task], dict[str, str]]:
    """(tasks, {evaluation: why it is left out}); raises UsageError, and IncompatibleError for a named evaluation that
    does not fit.

    trained: the model's own run. Where the user names no data set, or the run's own, evaluations of its kind of example
    get the rows that it held out.
    """
    fitting, left_out = _fitting(catalog, source, names)
    kinds = tuple(dict.fromkeys(kind for entry, _ in fitting for kind in entry.spec.kinds))
    wanted = values.get("kind")
    shared = _shared(catalog, dataset, kinds, values, bool(names)) if dataset is not None else None
    own = own_data(catalog, trained, shared) if dataset is None or shared else None
    tasks = []
    for entry, verdict in fitting:
        if own is not None and (task := _own_task(entry, verdict, own, split, values, wanted)):
            tasks.append(task)
            continue
        if not names and shared is None and entry.spec.in_training == "own-data":
            left_out[catalog.display_name(entry)] = "measures data of its kind: name it, or give --dataset"
            continue
        pairs = verdict.pairs if _reads_sequences(entry) else TEXT_PAIRS
        data = shared[0] if shared else _default_data(catalog, entry, wanted, pairs)
        yields = catalog.kinds_of(data, pairs) if data else ()
        kind = next((k for k in entry.spec.kinds if k in yields and wanted in (None, k)), None)
        if data is None or kind is None:
            why = f"runs on {' or '.join(entry.spec.kinds)} examples{_of_pairs(pairs)}; "
            why += f"{data.spec.name} yields {wanted or ', '.join(yields)}" if data else "no embedded data hold such"
            if names:
                hint = "Name some: --dataset FILE. Try: mmalign list datasets"
                raise IncompatibleError(f"{entry.spec.name} {why}", hint=hint)
            left_out[catalog.display_name(entry)] = why
            continue
        tasks.append(Task(entry, data, kind, split, values, shared[1] if shared else None, verdict))
    if not tasks:
        reasons = "\n".join(f"  {name}: {why}" for name, why in left_out.items())
        raise IncompatibleError(
            f"no evaluation runs on {source.reference} ({source.family.name}) here:\n{reasons}",
            hint=f"{source.family.use} Try: mmalign list evaluations".strip(),
        )
    return tasks, left_out


class OwnData(NamedTuple):
    """The data of a model's own run. options: the reader's, as the run had them."""

    entry: Entry
    kind: str
    options: Mapping[str, Any]


def own_data(catalog: Catalog, trained: TrainedBy | None, asked: tuple[Entry, str | None] | None) -> OwnData | None:
    """The run's data, where it held rows out and where they are the data asked for: (reader, path), or None for any."""
    if trained is None or not trained.heldout:
        return None
    entries = [entry for entry in catalog.entries("datasets") if entry.is_called(trained.dataset)]
    if not entries or (asked is not None and not is_own(trained, *asked)):
        return None
    return OwnData(entries[0], trained.kind, trained.options)


def is_own(trained: TrainedBy, entry: Entry, path: str | None) -> bool:
    """Whether a reader and its path are the data of a model's own run."""
    return entry.is_called(trained.dataset) and path == trained.options.get("path")


def _own_task(
    evaluation: Entry, verdict: Verdict, own: OwnData, split: str, values: Mapping[str, Any], wanted: str | None
) -> Task | None:
    """The evaluation on the rows that the run held out; None where it takes other kinds of example."""
    if own.kind not in evaluation.spec.kinds or wanted not in (None, own.kind):
        return None
    values = {**own.options, **values}
    return Task(evaluation, own.entry, own.kind, split or HELD_OUT, values, None, verdict, own=True)


def _fitting(
    catalog: Catalog, source: Source, names: Sequence[str]
) -> tuple[list[tuple[Entry, Verdict]], dict[str, str]]:
    chosen = [catalog.find("evaluations", name) for name in dict.fromkeys(names)] or catalog.entries("evaluations")
    verdicts = [(entry, verdict_on(entry, source.family)) for entry in chosen]
    for entry, verdict in verdicts if names else ():
        if not verdict.ok:
            require_needs(entry.spec.name, entry.spec.needs, source.family, source.reference, catalog)
    left_out = {catalog.display_name(e): f"{source.family.name}: {v.explain()}" for e, v in verdicts if not v.ok}
    return [(entry, verdict) for entry, verdict in verdicts if verdict.ok], left_out


def verdict_on(evaluation: Entry, family: Family) -> Verdict:
    """Whether an evaluation runs on a family, or on a view of it: on one of the model alone or, where it uses only
    differences between answers, on any."""
    spec = evaluation.spec
    return check_needs(spec.needs, family, VIEWS if spec.relative else ALONE, relative=spec.relative)


def _reads_sequences(evaluation: Entry) -> bool:
    return any(reads_sequences(parse_need(need)) for need in evaluation.spec.needs)


def _of_pairs(pairs: Set[Pair]) -> str:
    """Their contents in words, where they are not those of language models."""
    wanted = sorted(pair for pair in pairs - TEXT_PAIRS if all(pair))
    return f" that hold {' or '.join(map(in_words, wanted))}" if wanted else ""


def _shared(
    catalog: Catalog, name: str, kinds: tuple[str, ...], values: Mapping[str, Any], named: bool
) -> tuple[Entry, str | None]:
    """The data set that all evaluations run on, and its path where it is a reader of files."""
    if not kinds:
        raise UsageError("no evaluation fits this model", hint="Try: mmalign list evaluations")
    wanted = values.get("kind")
    entry, path = find_dataset(catalog, name, tuple(kind for kind in kinds if wanted in (None, kind)) or kinds, values)
    if path is None:
        return entry, None
    readers = [e for e in catalog.entries("datasets") if e.spec.reads_files and e.spec.kind in kinds]
    if not named and len(readers) > 1 and not recognises(entry, path, values):
        raise UsageError(
            f"{name} could hold {' or '.join(kinds)} examples",
            hint="Name the evaluation: mmalign evaluate NAME --dataset ... (mmalign list evaluations)",
        )
    return entry, path


def _default_data(catalog: Catalog, evaluation: Entry, wanted: str | None, pairs: Set[Pair]) -> Entry | None:
    return catalog.default_data((kind for kind in evaluation.spec.kinds if wanted in (None, kind)), pairs)
