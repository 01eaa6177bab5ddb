"""Conformance of objectives that sample: the answers, and the stored log-probabilities of the sampling policy."""

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
    are_pictures = whole["sequences"].pictures is not None
    assert are_pictures or len(lengths) > 2, f"the kit's prompts have too few different lengths: {sorted(lengths)}"
    for size in (1, 3):
        parts = []
        for start in range(0, len(whole), size):
            batches = [batch.select(range(start, min(start + size, len(batch)))) for batch in trainer.batches]
            parts.append(trainer.prepare(batches, first_row=start)[0])
        rows = [row for prepared in parts for row in prepared["sequences"].answers.rows()]
        for number, (expected, answer) in enumerate(zip(whole["sequences"].answers.rows(), rows, strict=True)):
            assert torch.equal(expected, answer), f"prompts {size} at a time: answer {number} has other tokens"
        scores = torch.cat([prepared["score"] for prepared in parts])
        assert torch.equal(scores, whole["score"]), f"prompts {size} at a time: other scores"


def first_ratio_is_one(build: Callable[..., Trainer]) -> None:
    """In the first update of a batch the policy still is the sampling policy, so the loss must not depend on the
    log-probabilities that `prepare` stored. These, and those stored while sampling, equal the `logps` of `forward` to
    1e-5 in float32."""
    import torch

    trainer = build(exact=False)
    prepared = trainer.prepare(trainer.batches)
    main = prepared[0]
    with torch.no_grad():
        parts = [trainer.outputs(batch) for batch in main.split(3)]
    labels = int(main["sequences"].num_labels().sum())
    names = [name for name, value in parts[0].items() if name == "logps"]
    logps = torch.cat([outputs["logps"] for outputs in parts]) if names else torch.zeros(0)
    if logps.shape != (labels,):
        raise Skip("forward gives no logps [P] of the action tokens")
    for name in ("old", "sampler_logps"):
        if name in main:
            _assert_near(name, main[name].values, logps)
    if "old" in main:
        _assert_first_update_ignores_old(trainer, prepared)


def _assert_near(name: str, stored: "Tensor", logps: "Tensor") -> None:
    assert stored.shape == logps.shape, f"{name} has the shape {list(stored.shape)}, logps {list(logps.shape)}"
    gap = float((stored - logps).abs().max())
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
    assert same, "the first update computes its ratio from stored logps, so it is not exactly 1 (use `old_logps`)"


CHECKS: dict[str, Callable[..., None]] = {
    "company changes no answer": company_changes_no_answer,
    "the first ratio is 1": first_ratio_is_one,
}
