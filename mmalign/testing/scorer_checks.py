"""Conformance of reward models: scores that do not depend on other answers, exact saving."""

from typing import TYPE_CHECKING, Any

from mmalign.contract.capabilities import Capability
from mmalign.testing.bench import Workbench
from mmalign.testing.saving import saving_is_exact

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.batch import Batch
    from mmalign.contract.source import Source
    from mmalign.language.sequences import Sequences

TOLERANCE = 1e-5  # float32, different summation order
NEEDED = frozenset({Capability.SCORE_SEQUENCES})


def company_changes_nothing(backbone: Any, batch: "Batch", source: "Source") -> None:
    """An answer has the same finite score with others, alone or in another order."""
    import torch

    sequences = batch["sequences"]
    together = _scores(backbone, sequences)
    assert together.shape == (int(sequences.counts.sum()),), f"scores have the shape {tuple(together.shape)}"
    assert torch.isfinite(together).all(), "scores are not finite"
    by_prompt = together.split(sequences.counts.tolist())
    for n, expected in enumerate(by_prompt):
        worst = float((_scores(backbone, sequences.select([n])) - expected).abs().max())
        assert worst < TOLERANCE, f"answers to a prompt alone differ by {worst:.1e}"
    order = list(reversed(range(len(batch))))
    worst = float((_scores(backbone, sequences.select(order)) - torch.cat([by_prompt[n] for n in order])).abs().max())
    assert worst < TOLERANCE, f"answers in another order differ by {worst:.1e}"


def save_and_load(backbone: Any, batch: "Batch", source: "Source", bench: Workbench) -> None:
    """A saved folder loads as the same model, bit for bit, with its processor and description."""
    saving_is_exact(backbone, bench, lambda model: {"scores": _scores(model, batch["sequences"])})


CHECKS = {
    "company changes no score": company_changes_nothing,
    "a saved reward model loads exactly": save_and_load,
}


def _scores(backbone: Any, sequences: "Sequences") -> "Tensor":
    import torch

    with torch.no_grad():
        return backbone.score_sequences(sequences)
