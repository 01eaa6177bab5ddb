"""The embedded InstructGPT pipeline end to end, then again with a SIGKILL in every stage: time, and the same weights.

    python tests/benchmarks/pipeline_killed.py --work work

The first run is left alone and timed. The second is killed once in each stage, as far into it as --share of what that
stage took, each time started again with the same command, and must leave the same bytes in every model, in the answers,
the rankings and the experience of the last stage. Runs that are there already are gone on with. About twice the time of
`mmalign pipeline instructgpt`.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BAR = 20 * 60  # seconds of the whole pipeline on two cores
COMPARED = ("*.safetensors", "answers.jsonl", "rankings.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--share", type=float, default=0.6, help="of a stage's time, after which it is killed")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    alone, killed = given.work / "alone", given.work / "killed"
    began = time.perf_counter()
    if start(alone).wait():
        sys.exit(f"the pipeline failed: see {alone}.log")
    whole = time.perf_counter() - began
    seconds = {name: stage["seconds"] for name, stage in stages(alone).items()}
    print("seconds:", ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    print(f"whole: {whole:.0f} s (bar {BAR}) {'ok' if whole <= BAR else 'ABOVE'}", flush=True)
    for name in seconds:
        kill_in(name, seconds[name] * given.share, killed)
    if start(killed).wait():
        sys.exit(f"the pipeline failed: see {killed}.log")
    ours, theirs = digests(alone), digests(killed)
    different = [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]
    print(f"{len(ours)} files compared, {len(different)} differ: {sorted(different)}")
    sys.exit(bool(different) or not ours)


def start(out: Path) -> subprocess.Popen[bytes]:
    """In a process group of its own, so that its workers go with it."""
    with Path(f"{out}.log").open("ab") as log:
        command = [sys.executable, "-m", "mmalign", "pipeline", "instructgpt", "--out", str(out)]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def kill_in(name: str, seconds: float, out: Path) -> None:
    """Start, wait until the stage has run for so long, and kill."""
    process = start(out)
    while not (out / name).exists():
        if process.poll() is not None:
            sys.exit(f"it ended before {name} began: see {out}.log")
        time.sleep(0.05)
    time.sleep(seconds)
    if process.poll() is not None or stages(out).get(name, {}).get("status") == "finished":
        sys.exit(f"{name} was over before it could be killed: a smaller --share, or a quieter machine")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    print(f"killed in {name} after {seconds:.1f} s", flush=True)


def stages(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / "pipeline.json").read_text())["stages"]
    except (OSError, ValueError):  # not there yet, or being written
        return {}


def digests(out: Path) -> dict[str, str]:
    """Of what stages hand on; checkpoints hold times, and which of them are kept hangs on when a run was stopped."""
    files = [path for pattern in COMPARED for path in out.rglob(pattern) if "checkpoints" not in path.parts]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


if __name__ == "__main__":
    main()
