"""Verdicts on held-out figures: against intervals by hand, by simulation, and in a run's report and on the terminal."""

import itertools
import json
import math
import random
import re
from pathlib import Path

import pytest

from mmalign.cli import run
from mmalign.evaluate.intervals import with_interval
from mmalign.testing.bench import Workbench
from mmalign.train.curves import reward_against_kl, smooth
from mmalign.train.judge import Estimates, jackknife, judge, student


def test_quantiles_are_the_tables() -> None:
    for freedom, value in ((4, 2.7764), (9, 2.2622), (15, 2.1314), (31, 2.0395)):
        assert student(freedom) == pytest.approx(value, abs=2e-3)


def test_the_jackknife_of_a_mean_is_the_interval_of_the_mean() -> None:
    values = [random.Random(1).gauss(0, 1) for _ in range(12)]
    total, number = sum(values), len(values)
    mean = total / number
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (number - 1))
    half = jackknife([(total - v) / (number - 1) for v in values])
    assert half == pytest.approx(student(11) * deviation / math.sqrt(number))


def test_estimates_leave_one_part_out() -> None:
    parts = [{"a": (float(n), 2.0), **({"b": (1.0, 1.0)} if n % 2 else {})} for n in range(70)]
    estimates = Estimates()
    for part in parts:
        estimates.add(part)
    rest = estimates.without()
    sizes = [len(list(group)) for _, group in itertools.groupby(range(70), key=lambda n: n // 3)]
    assert len(rest) == len(sizes) == 24
    first = 0
    for size, left in zip(sizes, rest, strict=True):
        kept = [part for place, part in enumerate(parts) if not first <= place < first + size]
        for name in "ab":
            expected = tuple(sum(part.get(name, (0, 0))[k] for part in kept) for k in (0, 1))
            assert left[name] == pytest.approx(expected)
        first += size


def _measured(losses: list[float]) -> tuple[dict[str, float], dict[str, list[float]]]:
    number = len(losses)
    whole = {"heldout/loss": sum(losses) / number, "heldout/examples": float(number)}
    return whole, {"heldout/loss": [(sum(losses) - loss) / (number - 1) for loss in losses]}


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "no clear difference"), (-0.3, "better"), (0.3, "worse")])
def test_a_paired_change_is_seen_through_differences_between_examples(shift: float, expected: str) -> None:
    """Examples differ by 3 nats, the change by 0.1: without pairs nothing of 0.3 would be seen in 30."""
    draw = random.Random(3)
    before = [draw.gauss(5, 3) for _ in range(30)]
    after = [loss + shift + draw.gauss(0, 0.1) for loss in before]
    (figures, parts), (now, parts_now) = _measured(before), _measured(after)
    row = judge(figures, now, parts, parts_now, {"heldout/loss": "low"})[0]
    assert (row.verdict, row.by) == (expected, "paired")
    assert row.low < sum(after) / 30 - sum(before) / 30 < row.high


def test_intervals_hold_in_95_of_100() -> None:
    draw, hits = random.Random(5), 0
    for _ in range(600):
        before = [draw.gauss(5, 3) for _ in range(24)]
        after = [loss + 0.2 + draw.gauss(0, 0.5) for loss in before]
        (figures, parts), (now, parts_now) = _measured(before), _measured(after)
        row = judge(figures, now, parts, parts_now, {"heldout/loss": "low"})[0]
        hits += row.low <= 0.2 <= row.high
    assert 0.93 <= hits / 600 <= 0.97


def test_figures_with_intervals_of_their_own_and_those_without() -> None:
    def shares(hits: int, number: int) -> dict[str, float]:
        found = {f"zero-shot/{name}": value for name, value in with_interval("top1", hits, number).items()}
        return {**found, "zero-shot/examples": float(number), "zero-shot/other": 1.0 * hits}

    known = {"zero-shot/top1": "high", "zero-shot/other": "high"}
    rows = {row.name: row for row in judge(shares(50, 100), shares(80, 100), {}, {}, known)}
    assert rows["zero-shot/top1"].verdict == "better" and rows["zero-shot/top1"].by == "intervals"
    # Newcombe's example of 56/70 and 48/80 (1998, table II, method 10): 0.0524 to 0.3339.
    row = judge(shares(48, 80), shares(56, 70), {}, {}, known)[0]
    assert (row.low, row.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    assert rows["zero-shot/other"].verdict == "" and "zero-shot/top1_low" not in rows
    assert judge(shares(50, 100), shares(55, 100), {}, {}, known)[0].verdict == "no clear difference"
    assert judge(shares(80, 100), shares(50, 100), {}, {}, known)[0].told == "✗ worse"
    assert judge(shares(5, 10), shares(10, 10), {}, {}, known)[0].told == "only 10 held-out examples"
    assert judge({}, shares(5, 10), {}, {}, known)[0].verdict == "", "nothing to compare with"


@pytest.fixture
def train(bench: Workbench, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """train(rows, *arguments) -> (stdout, stderr, run folder) of twelve steps of sft on the tiny Llama. split: rows of
    a validation split beside them."""

    def call(rows: list[dict], *arguments: str, split: list[dict] | None = None) -> tuple[str, str, Path]:
        data, out = tmp_path / "my-data.jsonl", tmp_path / "run"
        files = {data: rows}
        if split is not None:
            data = tmp_path / "parts"
            data.mkdir()
            files = {data / "train.jsonl": rows, data / "val.jsonl": split}
        for path, some in files.items():
            path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
        options = ("train.steps=12", "train.batch_size=8", "data.num_workers=0", "data.max_lost=1",
                   "train.warmup_steps=1", "evaluation.samples=0", *arguments)  # fmt: skip
        sets = [part for text in options for part in ("--set", text)]
        named = ["--backbone", str(bench.model("tiny-llama")), "--dataset", str(data), "--out", str(out)]
        code = run(["train", "--objective", "sft", *named, *sets])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out, captured.err, out

    return call


def test_a_run_that_got_worse_is_marked_everywhere(train, tmp_path) -> None:
    """Answers are learnt in training that are wrong in what is held out."""

    def conversation(number: int, answer: str) -> dict[str, object]:
        texts = (("user", f"q {number}"), ("assistant", answer))
        return {"messages": [{"role": role, "content": text} for role, text in texts]}

    held_out = tmp_path / "held-out.jsonl"
    other = "two small dogs of a house" * 3
    held_out.write_text("".join(json.dumps(conversation(n, other)) + "\n" for n in range(48)), encoding="utf-8")
    rows = [conversation(n, "the cat") for n in range(72)]
    out, err, folder = train(rows, "train.learning_rate=0.05", f"dataset.validation={held_out}")
    (line,) = [line for line in out.splitlines() if line.startswith("heldout/loss")]
    assert line.endswith("✗ worse"), out
    assert "try fewer passes over the data: --set train.steps=" in err
    assert "try a smaller learning rate: --set train.learning_rate=0.017" in err
    page = (folder / "report.html").read_text()
    assert '<td class="bad">✗ worse</td>' in page and "fewer passes over the data" in page
    assert "✗ worse" in (folder / "README.md").read_text()
    assert "my-data.jsonl" in page and f"next: mmalign generate --backbone {folder}/model --chat 'q " in err
    summary = json.loads((folder / "run.json").read_text())["summary"]
    (row,) = [row for row in summary["judged"] if row["name"] == "heldout/loss"]
    assert row["verdict"] == "worse" and row["low"] > 0 and row["by"] == "paired" and row["examples"] == 48


def test_few_held_out_examples_are_not_judged(train) -> None:
    rows = [{"prompt": f"q {n}", "completion": " the cat"} for n in range(40)]
    out, err, _ = train(rows, "dataset.holdout=0.1")
    (line,) = [line for line in out.splitlines() if line.startswith("heldout/loss")]
    assert re.search(r"only \d held-out examples$", line) and "too few held-out examples" in err
    assert "try more held-out data, for a clear verdict: --set dataset.holdout=0.2" in err
    assert "mmalign generate --backbone" in err and "'q " in err and "--chat" not in err


@pytest.mark.parametrize("own", ["dataset.validation", "a split"])
def test_no_share_to_hold_out_is_advised_where_it_changes_nothing(train, tmp_path, own) -> None:
    """Validation data of their own leave `dataset.holdout` without effect."""
    rows = [{"prompt": f"q {n}", "completion": " the cat"} for n in range(24)]
    if own == "a split":
        _, err, _ = train(rows, split=rows[:6])
    else:
        (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:6]))
        _, err, _ = train(rows, f"dataset.validation={tmp_path / 'other.jsonl'}")
    assert "dataset.holdout" not in err and "try more held-out data, for a clear verdict: a data set" in err


def test_half_is_the_most_that_is_advised_to_be_held_out(train) -> None:
    rows = [{"prompt": f"q {n}", "completion": " the cat"} for n in range(24)]
    _, err, _ = train(rows, "dataset.holdout=0.5")
    assert "too few held-out examples" in err and "try more held-out data" not in err


def test_the_smooth_line_does_not_lag() -> None:
    """A straight line is itself, at its ends too; of noise around one, most is gone."""
    for length in (1, 2, 3, 10, 300):
        line = [2 - 0.5 * step for step in range(length)]
        assert smooth(line) == pytest.approx(line, abs=1e-6)
    draw = random.Random(2)
    noisy = [0.01 * step + draw.gauss(0, 1) for step in range(1000)]
    left = [value - 0.01 * step for step, value in enumerate(smooth(noisy))]
    assert sum(v * v for v in left) / 1000 < 0.12 and abs(sum(left) / 1000) < 0.05


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_no_label_is_cut_off(curves, number: int) -> None:
    names = [f"metric_{n}" for n in range(number)]
    records = [{"step": s, **{name: -1e-5 * 3**n * s for n, name in enumerate(names)}} for s in range(1, 1200, 40)]
    scatter = reward_against_kl([{"step": s, "kl": 0.001 * s, "score": -0.00012 * s} for s in range(1, 90)])
    for figure in (curves(records), scatter):
        width, height = figure.get_size_inches()
        drawn = figure.get_tightbbox()  # inches, of all that is drawn
        assert drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height, drawn
