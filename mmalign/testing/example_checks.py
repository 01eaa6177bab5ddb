"""Conformance of example kinds: fields that become columns, modalities as the spec says, samples that are examples."""

from functools import partial

from mmalign.contract.specs import Entry
from mmalign.testing.bench import Check, Skip, Workbench

_READ_AS = {"image": "image", "text": "text", "turns": "text"}  # how a field is read -> its modality


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [
        Check(f"{entry.spec.noun} {entry.spec.name}: {title}", partial(function, entry, bench))
        for title, function in {
            "its fields become columns": becomes_columns,
            "its samples are examples of it": samples_are_examples,
        }.items()
    ]


def becomes_columns(entry: Entry, bench: Workbench) -> None:
    from mmalign.data.collate import columns_of

    kind = bench.catalog.load(entry)
    columns = columns_of(kind)
    assert kind.__dataclass_params__.frozen, f"{entry.spec.target} is not frozen: @dataclass(frozen=True)"
    modalities = {_READ_AS[read_as] for _, read_as in columns.values() if read_as in _READ_AS}
    declared = entry.spec.modalities & set(_READ_AS.values())
    assert declared == modalities, f"the spec says {sorted(declared)}, and the fields are {sorted(modalities)}"


def samples_are_examples(entry: Entry, bench: Workbench) -> None:
    """`samples(n)` returns n examples with different keys, the same at every call and in a worker's copy."""
    from mmalign.testing.backbone_checks import copy_as_to_a_worker
    from mmalign.testing.subjects import make_examples

    if not entry.spec.samples:
        raise Skip("the spec names no samples: the kit takes the first examples of the default data set")
    examples, kind = make_examples(entry.qualified, 5, bench), bench.catalog.load(entry)
    wrong = next((example for example in examples if not isinstance(example, kind)), None)
    assert wrong is None, f"samples(5) returned a {type(wrong).__name__}"
    assert len({example.key for example in examples}) == 5 == len(examples), "samples(5) are not 5 different examples"
    assert examples == make_examples(entry.qualified, 5, bench), "samples(5) changes from call to call"
    assert copy_as_to_a_worker(examples) == examples, "samples(5) differ in a worker's copy"
