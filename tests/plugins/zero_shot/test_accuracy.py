"""Accuracy, its intervals and the confusion matrix."""

import math
import random

import pytest
import torch
from mmalign_zero_shot.accuracy import NUM_WORST, Accuracy
from mmalign_zero_shot.confusion import MAX_SHOWN, choose, confusion_figure
from mmalign_zero_shot.separation import Separation

from mmalign.evaluate.intervals import is_bound, wilson
from mmalign.report import png_bytes


def test_wilson_solves_its_own_equation_and_knows_the_ends() -> None:
    """The ends are the shares p with |hits/n - p| = z sqrt(p (1 - p) / n)."""
    for hits, total in ((7, 10), (56, 80), (1, 3), (400, 500)):
        for end in wilson(hits, total):
            assert abs(hits / total - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / total))
    assert wilson(0, 10)[0] == 0 and 0.2 < wilson(0, 10)[1] < 0.35
    assert wilson(10, 10)[1] == pytest.approx(1) and wilson(0, 0) == (0.0, 1.0)


def test_shares_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(60, 9, generator=generator)
    truths = torch.randint(0, 9, (60,), generator=generator).tolist()
    accuracy = Accuracy(9)
    for place, (row, truth) in enumerate(zip(rows, truths, strict=True)):
        accuracy.add(str(place), truth, row)
    ordered = [sorted(range(9), key=lambda label, row=row: -float(row[label])) for row in rows]
    summary = accuracy.summary()
    assert summary["top1"] == sum(o[0] == t for o, t in zip(ordered, truths, strict=True)) / 60
    assert summary["top5"] == sum(t in o[:5] for o, t in zip(ordered, truths, strict=True)) / 60
    assert summary["examples"] == 60 and (summary["top1_low"], summary["top1_high"]) == wilson(accuracy.hits(1), 60)
    assert int(accuracy.confusion.sum()) == 60
    assert int(accuracy.confusion.diagonal().sum()) == accuracy.hits(1)
    for label, hits, count in accuracy.by_class():
        assert count == truths.count(label)
        assert hits == sum(o[0] == t == label for o, t in zip(ordered, truths, strict=True))
    margins = [mistake.margin for mistake in accuracy.worst]
    everything = sorted(
        (float(r.max() - r[t]) for r, t in zip(rows, truths, strict=True) if r.argmax() != t), reverse=True
    )
    assert margins == pytest.approx(everything[:NUM_WORST])


def test_a_tie_counts_against_the_model() -> None:
    accuracy = Accuracy(6)
    accuracy.add("all the same", 0, torch.full((6,), 0.5))
    assert accuracy.hits(1) == 0 and accuracy.hits(5) == 0 and accuracy.hits(6) == 1
    assert accuracy.confusion[0, 0] == 0


@pytest.mark.parametrize("num_classes", [3, 74, 1000])
def test_the_confusion_picture_keeps_to_the_most_confused(num_classes: int) -> None:
    rng = random.Random(0)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    confusion.fill_diagonal_(2)
    for _ in range(5):
        confusion[rng.randrange(num_classes), rng.randrange(num_classes)] += 50
    shown = choose(confusion)
    assert shown == sorted(shown) and len(shown) == min(num_classes, MAX_SHOWN)
    mistaken = {int(i) for i in (confusion - torch.diag(confusion.diagonal())).nonzero().flatten()}
    assert mistaken <= set(shown)
    figure = confusion_figure(confusion, [f"class {number} with a long name" for number in range(num_classes)])
    title = figure.axes[0].get_title()
    assert (f"of {num_classes} classes" in title) == (num_classes > MAX_SHOWN)
    assert png_bytes(figure, dpi=40).startswith(b"\x89PNG")


def test_the_ends_of_intervals_are_known_by_their_names() -> None:
    metrics = {"top1": 0.5, "top1_low": 0.4, "top1_high": 0.6, "flow": 1.0, "so_low": 2.0}
    assert [name for name in metrics if is_bound(name, metrics)] == ["top1_low", "top1_high"]


def test_separation_by_hand() -> None:
    """Against every pair and every threshold, one by one."""
    generator = torch.Generator().manual_seed(1)
    cosines = (torch.rand(40, 5, generator=generator) * 20).round() / 20  # with ties
    truths = torch.randint(0, 5, (40,), generator=generator).tolist()
    separation = Separation()
    present, absent = [], []
    for row, truth in zip(cosines, truths, strict=True):
        row[truth] += 0.3
        separation.add(row, truth)
        absent.append(max(value for place, value in enumerate(row.tolist()) if place != truth))
        if row[truth] > absent[-1]:
            present.append(float(row[truth]))
    assert 10 < len(present) < 40
    summary = separation.summary()
    above = sum((a > b) + (a == b) / 2 for a in present for b in absent)
    assert summary["auroc"] == pytest.approx(above / len(present) / 40)

    def shares(least: float) -> tuple[float, float]:
        return sum(a >= least for a in present) / len(present), sum(b >= least for b in absent) / 40

    assert (summary["kept"], summary["wrongly_named"]) == pytest.approx(shares(summary["min_cosine"]))
    largest = max(kept - wrongly for kept, wrongly in map(shares, [*present, *absent]))
    assert summary["kept"] - summary["wrongly_named"] == pytest.approx(largest)
    assert separation.shares(0.9) == pytest.approx(shares(0.9))
    alone = Separation()
    alone.add(torch.tensor([0.5]), 0)
    assert alone.summary() == {}
