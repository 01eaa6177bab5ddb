"""Start-up beside the peers', in alternating fresh processes: python tests/benchmarks/startup.py [--repeats 7]

Prints the median wall seconds of each command, and zero-shot as a multiple of `python -c "import open_clip"`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PHOTO = Path(__file__).parents[2] / "plugins" / "mmalign_data" / "photos" / "cat.jpg"
MMALIGN = [str(Path(sys.executable).with_name("mmalign"))]  # the command as it is typed
COMMANDS = {
    "import open_clip": [sys.executable, "-c", "import open_clip"],
    "zero-shot, 2 labels": [*MMALIGN, "zero-shot", str(PHOTO), "--labels", "a cat", "--labels", "a dog"],
    "zero-shot, 998 names": [*MMALIGN, "zero-shot", str(PHOTO), "--labels", "a photo of a <object>"],
    "--help": [*MMALIGN, "--help"],
    "train --help": [*MMALIGN, "train", "--help"],
    "list objectives": [*MMALIGN, "list", "objectives"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            if repeat:  # the first round fills the file cache
                seconds[name].append(time.perf_counter() - began)
    median = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    base = median["import open_clip"]
    ratios = {name: round(value / base, 2) for name, value in median.items() if name.startswith("zero-shot")}
    print(json.dumps({"median seconds": median, "ratio to import open_clip": ratios}, indent=2))


if __name__ == "__main__":
    main()
