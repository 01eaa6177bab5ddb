"""Run a pipeline that gets a signal in one of its stages: python -m tests.support.dying CONFIG OUT STAGE SIGNUM."""

import os
import sys

from mmalign.cli import run
from tests.support.pipeline_samples import hit_in


def main() -> int:
    config, out, stage, signum = sys.argv[1:]
    line = "" if stage in ("samples", "rankings", "report") else "step 2"
    hit_in(stage, line, lambda: os.kill(os.getpid(), int(signum)), setattr)
    return run(["pipeline", config, "--out", out])


if __name__ == "__main__":
    sys.exit(main())
