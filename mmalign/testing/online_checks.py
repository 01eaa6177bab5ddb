"""Conformance of objectives that sample: what they sample, and where they say that the policy stood then."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmalign.testing.bench import Skip
from mmalign.testing.trainer import SINGLE, Trainer

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.batch import Batch


def company_changes_no_answer(build: Callable[..., Trainer]) -> None:
    """Prompts of different lengths get the same tokens alone, three at a time and all together, padded or not."""
    import torch

    trainer = build(exact=False)
    (whole, *_) = trainer.prepare(trainer.batches)
    lengths = set(whole["sequences"].prompts.lengths.tolist())
    assert len(lengths) > 2, "the kit's prompts have different lengths"
    for size in (1, 3):
        parts = []
        for start in range(0, len(whole), size):
            batches = [batch.select(range(start, min(start + size, len(batch)))) for batch in trainer.batches]
            parts.append(trainer.prepare(batches, first_row=start)[0])
        rows = [row for part in parts for row in part["sequences"].answers.rows()]
        for number, (expected, found) in enumerate(zip(whole["sequences"].answers.rows(), rows, strict=True)):
            assert torch.equal(expected, found), f"prompts {size} at a time: answer {number} has other tokens"
        scores = torch.cat([part["score"] for part in parts])
        assert torch.equal(scores, whole["score"]), f"prompts {size} at a time: other scores"


def first_ratio_is_one(build: Callable[..., Trainer]) -> None:
    """In the first update of a batch the policy is the old one, exactly: what `prepare` noted of it changes nothing.
    What it noted, and what was noted in sampling, are what `forward` finds, to 1e-5 in float32."""
    import torch

    trainer = build(exact=False)
    prepared = trainer.prepare(trainer.batches)
    main = prepared[0]
    with torch.no_grad():
        parts = [trainer.outputs(part) for part in main.split(3)]
    labels = int(main["sequences"].num_labels().sum())
    names = [name for name, value in parts[0].items() if name == "logps"]
    logps = torch.cat([part["logps"] for part in parts]) if names else torch.zeros(0)
    if logps.shape != (labels,):
        raise Skip("forward gives no logps [P] of the action tokens")
    for name in ("old", "sampler_logps"):
        if name in main:
            _assert_near(name, main[name].values, logps)
    if "old" in main:
        _assert_first_update_ignores_old(trainer, prepared)


def _assert_near(name: str, noted: "Tensor", logps: "Tensor") -> None:
    assert noted.shape == logps.shape, f"{name} has the shape {list(noted.shape)}, logps {list(logps.shape)}"
    gap = float((noted - logps).abs().max())
    assert gap <= SINGLE, f"{name} and the logps of forward differ by {gap:.1e}"


def _assert_first_update_ignores_old(trainer: Trainer, prepared: "list[Batch]") -> None:
    import torch

    from mmalign.contract.batch import Ragged

    main, *others = prepared
    old: Ragged = main["old"]
    first = torch.zeros(len(main), dtype=torch.int64, device=main.device)
    losses = {}
    for shift in (0.0, 1.0):
        moved = main.with_columns(old=Ragged(old.values + shift, old.offsets), update=first)
        result, gradients = trainer.gradients_of([moved, *others])
        losses[shift] = [result.loss, *(grad for grad in gradients.values() if grad is not None)]
    same = all(torch.equal(a, b) for a, b in zip(losses[0.0], losses[1.0], strict=True))
    assert same, "the first update takes its ratio from what was noted: it is not exactly 1 (use `old_logps`)"


CHECKS: dict[str, Callable[..., None]] = {
    "company changes no answer": company_changes_no_answer,
    "the first ratio is 1": first_ratio_is_one,
}
