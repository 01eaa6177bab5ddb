"""A short run on a terminal of its own: the line is redrawn in place, never wraps, and leaves the terminal clean."""

import json
import re
import sys
from pathlib import Path

import pytest

from mmalign.testing.bench import Workbench
from tests.support.pty_terminal import CONTROL, on_terminal


def redrawn(written: bytes) -> list[str]:
    """What the line showed, newest last, without colours: it begins behind a carriage return, or, where a line that
    stays was written last, on a line of its own that a carriage return takes away."""
    pieces = [piece.split(b"\n") for piece in CONTROL.sub(b"", written).replace(b"\r\n", b"\n").split(b"\r")]
    return [line.decode() for lines in pieces for line in dict.fromkeys((lines[0], lines[-1]))]


@pytest.fixture
def command(bench: Workbench, tmp_path: Path) -> list[str]:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"film {n} was", "chosen": " good", "rejected": " bad"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = ("train.steps=2000", "train.batch_size=4", "train.eval_every=45", "data.max_lost=1", "data.num_workers=0",
            "evaluation.samples=0")  # fmt: skip
    named = ["--objective", "dpo", "--backbone", str(bench.model("tiny-llama")), "--dataset", str(path)]
    options = [part for text in sets for part in ("--set", text)]
    return [sys.executable, "-m", "mmalign", "train", *named, *options, "--out", str(tmp_path / "run")]


def test_one_line_is_redrawn_the_rest_stays_and_ctrl_c_leaves_the_terminal_clean(command: list[str]) -> None:
    columns = 80
    code, written = on_terminal(command, columns, interrupt_at=b"step 45: heldout/loss")
    plain = CONTROL.sub(b"", written).decode(errors="replace").rstrip()
    assert code == 130, plain[-3000:]
    drawn = redrawn(written)
    stages = {"loading", "reference pass", "evaluating", "training"}
    assert {line for line in stages for text in drawn if text.startswith(line)} == stages
    bars = [text for text in drawn if "━" in text or "─" in text]
    assert bars and max(map(len, bars)) < columns, "it never fills the line, so it never wraps"
    assert any(re.match(r"training.* \d+/2,000  loss \d", text) for text in bars)
    assert "step 0: heldout/loss" in plain and "step 10/2000  loss" not in plain, "the redrawn line takes its place"
    assert "stopped by SIGINT; saved" in plain
    assert plain.splitlines()[-1].split("\r")[-1].startswith("go on: mmalign train --resume")
    assert written.rfind(b"\x1b[?25h") > written.rfind(b"\x1b[?25l"), "the cursor is there at the end"
