"""Conformance of data sets (equal at every call, unique keys, correct counts) and of evaluations."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

from mmalign.contract.specs import Entry
from mmalign.registry.compat import check_needs
from mmalign.testing.bench import Check, Skip, Workbench

if TYPE_CHECKING:
    from mmalign.evaluate.parts import Part
    from mmalign.registry.catalog import Catalog

MAX_EXAMPLES = 5000  # examples checked of a larger data set


def dataset_checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [
        Check(f"dataset {entry.spec.name}: {title}", partial(function, entry, bench))
        for title, function in {
            "the same at every call": stable,
            "keys are unique, also across splits": unique_keys,
            "travels to workers": travels,
            "reports its counts": reports,
            "yields its kind": yields_its_kind,
            "names its classes": names_its_classes,
        }.items()
    ]


def evaluation_checks(entry: Entry, bench: Workbench) -> list[Check]:
    """One check on each tiny model that may provide what the evaluation needs."""
    name, title = entry.spec.name, "finite, with its primary metric"
    return [
        Check(f"evaluation {name} on {reference}: {title}", partial(evaluates, entry, reference, bench))
        for reference in bench.model_names
        for known in [bench.family(reference)]
        if known is None or check_needs(entry.spec.needs, known[1]).ok
    ]


def stable(entry: Entry, bench: Workbench) -> None:
    data, again = _build(entry, bench), _build(entry, bench)
    assert len(data) == len(again) > 0, f"{len(data)} examples, then {len(again)}"
    assert data.fingerprint() == again.fingerprint(), "the fingerprint changes without a change of the data"
    for index in _indices(data, 64):
        assert data[index] == data[index] == again[index], f"example {index} changes from call to call"


def unique_keys(entry: Entry, bench: Workbench) -> None:
    seen: dict[str, str] = {}
    for split in ("train", "validation"):
        data = _build(entry, bench, split)
        for index in _indices(data, MAX_EXAMPLES) if data is not None else ():
            key = data[index].key
            assert key not in seen, f"{split}[{index}] and {seen[key]} have the same key {key!r}"
            seen[key] = f"{split}[{index}]"


def travels(entry: Entry, bench: Workbench) -> None:
    from mmalign.testing.backbone_checks import copy_as_to_a_worker

    data = _build(entry, bench)
    twin = copy_as_to_a_worker(data)
    assert len(twin) == len(data), "a worker's copy has another length"
    for index in _indices(data, 16):
        assert twin[index] == data[index], f"example {index} differs in a worker's copy"


def reports(entry: Entry, bench: Workbench) -> None:
    data = _build(entry, bench)
    report = data.report()
    assert {"kept", "skipped", "source"} <= set(report), f"report lacks keys: {sorted(report)}"
    assert report["kept"] == len(data), f"report says {report['kept']} kept, len is {len(data)}"
    wrong = {reason: count for reason, count in report["skipped"].items() if not isinstance(count, int) or count < 0}
    assert not wrong, f"skipped must be counts by reason: {wrong}"


def yields_its_kind(entry: Entry, bench: Workbench) -> None:
    for name in entry.spec.kinds:
        data = _build(entry, bench, kind=name)
        kind = bench.catalog.load(bench.catalog.find("examples", name))
        wrong = next((data[index] for index in _indices(data, 64) if not isinstance(data[index], kind)), None)
        assert wrong is None, f"yields {type(wrong).__name__}, its spec says {name}"


def names_its_classes(entry: Entry, bench: Workbench) -> None:
    for kind in sorted(kind for kind in entry.spec.kinds if _has_class(bench.catalog, kind)):
        data = _build(entry, bench, kind=kind)
        classes = data.classes
        assert len(classes) == len(set(classes)) > 0, f"classes must be different names, at least one: {classes}"
        wrong = next((i for i in _indices(data, 64) if not 0 <= data[i].label < len(classes)), None)
        assert wrong is None, f"example {wrong} has the label {data[wrong].label}, and there are {len(classes)} classes"


def _has_class(catalog: "Catalog", kind: str) -> bool:
    """Whether examples of that kind have an integer `label`, the index of a class of their data set."""
    return get_type_hints(catalog.load(catalog.find("examples", kind))).get("label") is int


def evaluates(entry: Entry, reference: str, bench: Workbench) -> None:
    """On a few examples, all metrics are finite and include the primary one; random state and modes are unchanged."""
    import torch

    from mmalign.contract.evaluation import Runtime
    from mmalign.evaluate.runner import run_evaluation
    from mmalign.testing.subjects import load, resolve_or_skip

    source = resolve_or_skip(reference, bench)
    verdict = check_needs(entry.spec.needs, source.family)
    if not verdict.ok:
        raise Skip(f"{source.family.name}: {verdict.explain()}")
    parts = [part for kind in entry.spec.kinds for part in [_default_part(kind, bench)] if part is not None]
    if not parts:
        raise Skip(f"no default data set for {' or '.join(entry.spec.kinds)} examples")
    backbone = load(source, bench)
    backbone.module.train()
    state, modes = torch.get_rng_state(), [module.training for module in backbone.module.modules()]
    for part in parts:
        runtime = Runtime(torch.device("cpu"), 16)
        metrics = run_evaluation(bench.catalog, entry, backbone, part, runtime, {"max_examples": 32})
        assert entry.spec.primary in metrics, f"the primary metric {entry.spec.primary} is not in {sorted(metrics)}"
        infinite = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        assert not infinite, f"not finite: {infinite}"
        assert torch.equal(state, torch.get_rng_state()), "the evaluation changes the random state"
        assert modes == [module.training for module in backbone.module.modules()], "the evaluation changes module modes"


def _default_part(kind: str, bench: Workbench) -> "Part | None":
    from mmalign.evaluate.parts import held_out
    from mmalign.testing.subjects import dataset_config

    dataset = bench.catalog.default_data([kind])
    if dataset is None:
        return None
    return held_out(bench.catalog, dataset, dataset_config(dataset, bench, kind), kind)


def _build(entry: Entry, bench: Workbench, split: str = "train", kind: str = "") -> Any:
    from mmalign.testing.subjects import dataset_config

    data = bench.catalog.load(entry).build(dataset_config(entry, bench, kind or entry.spec.kind), split)
    assert data is not None or split != "train", "build(config, 'train') returned None"
    return data


def _indices(data: Any, limit: int) -> range:
    """Up to `limit` indices, evenly spread."""
    return range(0, len(data), max(1, -(-len(data) // limit)))
