"""Conformance of backbones: methods as declared, batching without effect, gradients everywhere, exact saving."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mmalign.contract.capabilities import Capability
from mmalign.contract.specs import Entry
from mmalign.testing import adapter_checks, language_checks, scorer_checks
from mmalign.testing.bench import Check, Skip, Workbench
from mmalign.testing.saving import saving_is_exact

if TYPE_CHECKING:
    from mmalign.contract.batch import Batch
    from mmalign.contract.source import Source

TOLERANCE = 1e-5  # float32, different summation order
_DUAL_ENCODER = frozenset({Capability.ENCODE_IMAGE, Capability.ENCODE_TEXT})
_SPECIAL = (language_checks, scorer_checks, adapter_checks)  # each for models that provide its `NEEDED`


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    """A check of the class's methods, then each check on every tiny model of its families that provides what the check
    needs, or on the embedded model."""
    name = entry.spec.name
    cases = [Check(f"backbone {name}: declared equals provided", partial(declared_equals_provided, entry, bench))]
    if entry.spec.extra and entry.spec.bundled and find_spec(entry.spec.bundled.partition(":")[0]) is None:
        return [*cases, Check(f"backbone {name}: its model works", partial(_not_installed, entry))]
    for reference in [name] if entry.spec.bundled else bench.model_names_for(entry.spec.prefixes):
        known = bench.family(reference)
        if known and known[0].qualified != entry.qualified:
            continue
        special = [check for module in _SPECIAL for check in module.CHECKS.items()]
        for title, function in (*_CHECKS.items(), *special):
            if known is None or _needed(function) <= known[1].provides:
                label = f"backbone {name}{'' if entry.spec.bundled else f' on {reference}'}: {title}"
                cases.append(Check(label, partial(_run, function, entry, reference, bench)))
    return cases


def _not_installed(entry: Entry) -> None:
    raise Skip(f"{entry.spec.extra} is not installed")


def _needed(function: Callable[..., None]) -> frozenset[Capability]:
    """The capabilities that a model must provide for a check to apply."""
    special = next((module for module in _SPECIAL if function in module.CHECKS.values()), None)
    return special.NEEDED if special else _DUAL_ENCODER


def declared_equals_provided(entry: Entry, bench: Workbench) -> None:
    """The class has a method for every declared capability, and every such method is declared by one of the families
    that use the class."""
    target = bench.catalog.load(entry)
    same_class = [e for e in bench.catalog.entries("backbones") if e.spec.target == entry.spec.target]
    declared = {capability for e in same_class for family in e.spec.families for capability in family.provides}
    provided = {capability for capability in Capability if any(capability.method in vars(c) for c in target.__mro__)}
    missing = sorted(capability for f in entry.spec.families for capability in f.provides - provided)
    assert not missing, f"declared, but the class has no method {', '.join(missing)}"
    assert provided <= declared, f"methods that no family declares: {', '.join(sorted(provided - declared))}"


def unit_norm(backbone: Any, batch: "Batch", source: "Source") -> None:
    """Embeddings are [N, D] of unit length, the same D for both towers."""
    features = _features(backbone, batch)
    for name, value in features.items():
        assert value.ndim == 2 and len(value) == len(batch), f"{name}: shape {tuple(value.shape)}"
        worst = float((value.norm(dim=1) - 1).abs().max())
        assert worst < TOLERANCE, f"{name}: norms differ from 1 by {worst:.1e}"
    assert len({value.shape[1] for value in features.values()}) == 1, "image and text embeddings differ in width"


def batch_invariance(backbone: Any, batch: "Batch", source: "Source") -> None:
    """An example has the same embedding alone, in another order, or padded beside longer rows."""
    import torch

    together = _features(backbone, batch)
    order = list(reversed(range(len(batch))))
    for title, parts in {
        "alone": batch.split(1),
        "in threes": batch.split(3),
        "reversed": [batch.select(order)],
    }.items():
        pieces = [_features(backbone, piece) for piece in parts]
        for name, expected in together.items():
            value = torch.cat([piece[name] for piece in pieces])
            worst = float(((value[order] if title == "reversed" else value) - expected).abs().max())
            assert worst < TOLERANCE, f"{name}: an example {title} differs by {worst:.1e}"


def gradients_reach_everything(backbone: Any, batch: "Batch", source: "Source") -> None:
    """Every trainable parameter has a gradient from the embeddings and the head."""
    import torch

    backbone.module.zero_grad(set_to_none=True)
    head = backbone.contrastive_head() if _provides(source, Capability.CONTRASTIVE_HEAD) else ()
    loss = torch.zeros(())
    for value in _features(backbone, batch, grad=True).values():
        loss = loss + (value * torch.linspace(-1, 1, value.numel()).reshape(value.shape)).sum()
    for scalar in head:
        loss = loss + scalar if scalar is not None else loss
    loss.backward()
    bare = [name for name, p in backbone.module.named_parameters() if p.requires_grad and p.grad is None]
    assert not bare, f"{len(bare)} trainable parameters get no gradient: {', '.join(bare[:5])}"


def head_is_scalar(backbone: Any, batch: "Batch", source: "Source") -> None:
    """Scale and bias are 0-D parameters of the module, or views of them, so that in-place changes reach the module."""
    if not _provides(source, Capability.CONTRASTIVE_HEAD):
        raise Skip("no contrastive head")
    own = {parameter.data_ptr() for parameter in backbone.module.parameters()}
    for name, value in zip(("log_scale", "bias"), backbone.contrastive_head(), strict=True):
        assert value is None or value.ndim == 0, f"{name} has shape {tuple(value.shape)}"
        assert value is None or value.data_ptr() in own, f"{name} is a copy, not a parameter of the module"


def processor_travels(backbone: Any, batch: "Batch", source: "Source") -> None:
    """Data workers receive a copy of the processor that behaves the same."""
    import torch

    from mmalign.testing.subjects import TEXTS

    twin = copy_as_to_a_worker(backbone.processor)
    for text in TEXTS:
        assert torch.equal(twin.text(text).ids, backbone.processor.text(text).ids), (
            f"a worker's copy tokenises {text!r} differently"
        )
    long = backbone.processor.text("cat " * 10 * backbone.processor.context_length)
    assert len(long.ids) <= backbone.processor.context_length, "text() returns more than context_length tokens"
    assert long.num_lost > 0, "text() cuts a long text and reports no lost tokens"


def save_and_load(backbone: Any, batch: "Batch", source: "Source", bench: Workbench) -> None:
    """A saved folder loads as the same model, bit for bit, with its processor and description."""
    saving_is_exact(backbone, bench, lambda model: _features(model, batch))


def copy_as_to_a_worker(value: Any) -> Any:
    """The copy that a spawned data worker would receive."""
    from multiprocessing.reduction import ForkingPickler

    return ForkingPickler.loads(ForkingPickler.dumps(value))


_CHECKS: dict[str, Callable[..., None]] = {
    "embeddings have unit length": unit_norm,
    "batching changes nothing": batch_invariance,
    "gradients reach every trainable parameter": gradients_reach_everything,
    "the head is 0-D parameters": head_is_scalar,
    "the processor travels to workers": processor_travels,
    "saving and loading is exact": save_and_load,
}


def _run(function: Callable[..., None], entry: Entry, reference: str, bench: Workbench) -> None:
    from mmalign.testing.subjects import load, make_batch, resolve_or_skip, single_thread

    source = resolve_or_skip(reference, bench)
    if source.entry.qualified != entry.qualified:
        raise Skip(f"{reference} is {source.entry.spec.name}'s")
    needed = _needed(function)
    if not needed <= source.family.provides:
        raise Skip(f"this check is for models that provide {' and '.join(sorted(needed))}")
    backbone = load(source, bench)
    backbone.module.eval()
    reads_texts = source.family.modalities == {"text"}
    kind = "ranking" if reads_texts else "image-text"
    batch = make_batch(kind, backbone.processor, 8, bench)
    saving = (save_and_load, language_checks.save_and_load, scorer_checks.save_and_load)
    with_bench = (*saving, *adapter_checks.CHECKS.values())
    with single_thread():
        function(*(backbone, batch, source), *([bench] if function in with_bench else []))


def _provides(source: "Source", capability: Capability) -> bool:
    return capability in source.family.provides


def _features(backbone: Any, batch: "Batch", *, grad: bool = False) -> dict[str, Any]:
    import torch

    with torch.set_grad_enabled(grad):
        return {"images": backbone.encode_image(batch["image"]), "texts": backbone.encode_text(batch["text"])}
