"""Conformance of backbones with an adapter: only it trains, it switches off exactly, and it is merged when saved."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.contract.capabilities import Capability
from mmalign.testing.bench import Skip, Workbench
from mmalign.testing.rounding import rounding

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.batch import Batch
    from mmalign.contract.source import Source

NEEDED = frozenset({Capability.ADAPTER_SWITCH})


def switches_off_exactly(backbone: Any, batch: "Batch", source: "Source", bench: Workbench) -> None:
    """A fresh adapter changes nothing; a trained one, switched off, gives the starting outputs bit for bit.

    The outputs of a model loaded without adapter may be rounded differently: torch has other kernels for frozen
    weights.
    """
    adapted = _adapted(source, bench)
    assert not backbone.adapter_is_fresh and adapted.adapter_is_fresh, "adapter_is_fresh is wrong"
    base = outputs(adapted, batch)
    _assert_equal(outputs(backbone, batch), base, rounding(backbone.module), "a fresh adapter changes")
    trained = [name for name, parameter in adapted.module.named_parameters() if parameter.requires_grad]
    _perturb(adapted)
    assert any(float((base[name] - value).abs().max()) > 0 for name, value in outputs(adapted, batch).items()), (
        "the adapter has no effect"
    )
    with adapted.adapter_off():
        _assert_equal(base, outputs(adapted, batch), 0.0, "switched off, the adapter still changes")
    again = [name for name, parameter in adapted.module.named_parameters() if parameter.requires_grad]
    assert trained == again, "adapter_off changes which parameters train"


def only_the_adapter_trains(backbone: Any, batch: "Batch", source: "Source", bench: Workbench) -> None:
    """The plain model's parameters are frozen; every other parameter gets a gradient."""
    import torch

    adapted = _adapted(source, bench)
    _perturb(adapted)
    plain = sum(parameter.numel() for parameter in backbone.module.parameters())
    parameters = dict(adapted.module.named_parameters())
    frozen = sum(parameter.numel() for parameter in parameters.values() if not parameter.requires_grad)
    assert frozen == plain, f"{frozen:,} parameters are frozen; the model without adapter has {plain:,}"
    torch.stack([v.square().mean() + v.mean() for v in outputs(adapted, batch, grad=True).values()]).sum().backward()
    bare = [name for name, p in parameters.items() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not bare, f"{len(bare)} parameters of the adapter get no gradient: {', '.join(bare[:5])}"


def saves_merged(backbone: Any, batch: "Batch", source: "Source", bench: Workbench) -> None:
    """A saved folder is a model without adapter that computes the same; the live model keeps its adapter."""
    from mmalign.models.references import find_source
    from mmalign.testing.subjects import load

    adapted = _adapted(source, bench)
    _perturb(adapted)
    expected = outputs(adapted, batch)
    with tempfile.TemporaryDirectory(dir=bench.folder) as parent:
        folder = Path(parent) / "saved"
        adapted.save(folder)
        twin = load(find_source(str(folder), bench.catalog), bench, seed=1)
    _assert_equal(expected, outputs(adapted, batch), 0.0, "saving changes the live model")
    _assert_equal(expected, outputs(twin, batch), rounding(backbone.module), "merging changes")
    assert list(twin.module.state_dict()) == list(backbone.module.state_dict()), "the merged model has other tensors"


CHECKS: dict[str, Callable[..., None]] = {
    "an adapter switches off exactly": switches_off_exactly,
    "only the adapter trains": only_the_adapter_trains,
    "an adapter is merged when saved": saves_merged,
}


def outputs(backbone: Any, batch: "Batch", *, grad: bool = False) -> "dict[str, Tensor]":
    """The embeddings of a dual encoder, or the log-probabilities of a language model."""
    import torch

    with torch.set_grad_enabled(grad):
        if "image" in batch.columns:
            return {"images": backbone.encode_image(batch["image"]), "texts": backbone.encode_text(batch["text"])}
        return {"logps": backbone.token_logps(backbone.hidden_states(batch["sequences"])).logps}


def _adapted(source: "Source", bench: Workbench) -> Any:
    from mmalign.testing.subjects import load

    if importlib.util.find_spec("peft") is None:
        raise Skip("peft is not installed")
    adapted = load(source, bench, lora={"rank": 2})
    adapted.module.eval()
    return adapted


def _perturb(backbone: Any) -> None:
    """Change the adapter as training would: peft starts with B = 0."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def _assert_equal(expected: "dict[str, Tensor]", actual: "dict[str, Tensor]", limit: float, problem: str) -> None:
    for name, value in expected.items():
        worst = float((value - actual[name]).abs().max())
        assert worst <= limit, f"{problem} {name} by {worst:.1e}"
