"""What people see of a run at 80, 110 and 160 columns: screens of the terminal as text, pictures of the report.

    python -m pip install pyte                                    # replays a terminal; chromium draws the report
    python tests/benchmarks/terminal_shots.py --out shots         # dpo and ppo on a tiny model, a minute each

For every width shots/ gets OBJECTIVE-WIDTH.txt (the live line at several moments, then the scrollback) and, where
chromium is installed, OBJECTIVE-WIDTH.png of the report in a window of 10 pixels a column. It fails where a line that
is redrawn reaches the width, or a row of the table exceeds it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.pty_terminal import CONTROL, on_terminal

WIDTHS = (80, 110, 160)
_MOMENTS = 12
_OPTIONS = {
    "dpo": ("train.steps=60", "train.eval_every=20", "dataset.holdout=0.1"),
    "ppo": ("train.steps=6", "train.log_every=1", "train.eval_every=0", "rollout.max_tokens=8", "rollout.samples=4"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("shots"))
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_inputs(root)
        for objective, options in _OPTIONS.items():
            for width in given.widths:
                run = root / f"{objective}-{width}"
                code, written = on_terminal(command(objective, options, root, run), width)
                too_wide = redrawn_too_wide(written, width) + table_too_wide(written, width)
                wrong += bool(code) + len(too_wide)
                target = given.out / f"{objective}-{width}"
                target.with_suffix(".txt").write_text(screens(written, width), encoding="utf-8")
                photograph(run / "report.html", target.with_suffix(".png"), 10 * width)
                print(f"{objective} at {width}: exit {code}, {len(too_wide)} lines too wide")
    return 1 if wrong else 0


def write_inputs(root: Path) -> None:
    from mmalign.testing import models

    models.tiny_llama(root / "model")
    prompts = [f"film {number} was" for number in range(400)]
    pairs = [{"prompt": prompt, "chosen": " a warm story", "rejected": " dull"} for prompt in prompts]
    for name, rows in (("dpo", pairs), ("ppo", [{"prompt": prompt} for prompt in prompts])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def command(objective: str, options: tuple[str, ...], root: Path, run: Path) -> list[str]:
    shared = ("train.batch_size=8", "data.max_lost=1", "data.num_workers=0", "evaluation.samples=2")
    sets = [part for text in (*shared, *options) for part in ("--set", text)]
    named = ["--backbone", str(root / "model"), "--dataset", str(root / f"{objective}.jsonl"), "--out", str(run)]
    reward = ["--reward", "length=0.1"] if objective == "ppo" else []
    return [sys.executable, "-m", "mmalign", "train", "--objective", objective, *named, *reward, *sets]


def redrawn_too_wide(written: bytes, width: int) -> list[str]:
    """Lines that are redrawn end with a carriage return, and must leave the last column empty."""
    lines = [piece.split("\n")[-1] for piece in _plain(written).split("\r")[:-1]]
    return [line for line in lines if ("━" in line or "─" in line) and len(line) >= width]


def table_too_wide(written: bytes, width: int) -> list[str]:
    lines = _plain(written).replace("\r", "\n").split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith("step/")]
    return [line for number in starts for line in lines[number : number + 8] if len(line) > width and "  " in line]


def _plain(written: bytes) -> str:
    return CONTROL.sub(b"", written).decode(errors="replace").replace("\r\n", "\n")


def screens(written: bytes, width: int) -> str:
    """The last two lines at moments of the run, then all that stays."""
    import pyte

    screen = pyte.HistoryScreen(width, 40, history=10_000)
    stream, size = pyte.ByteStream(screen), max(1, len(written) // _MOMENTS)
    found = []
    for start in range(0, len(written), size):
        stream.feed(written[start : start + size])
        shown = [line.rstrip() for line in screen.display if line.strip()]
        found += [*shown[-2:], "-" * width]
    stay = ["".join(line[column].data for column in range(width)).rstrip() for line in screen.history.top]
    return "\n".join([*found, *stay, *(line.rstrip() for line in screen.display)]) + "\n"


def photograph(page: Path, picture: Path, width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium and page.is_file():
        size = [f"--window-size={width},1800", f"--screenshot={picture}"]
        headless = [chromium, "--headless", "--no-sandbox", "--disable-gpu", *size, page.as_uri()]
        subprocess.run(headless, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    sys.exit(main())
