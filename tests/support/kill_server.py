"""Kill a training run at random moments and resume it.

    python -m tests.support.kill_server MODEL DATA OUT TRIALS KILLS_EACH SEED

The parent imports everything once and forks a child for each sitting, so a trial costs no imports. Prints one JSON
line.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from mmalign_report import page

from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.train import run as launch
from mmalign.train.checkpoint import committed, verify
from mmalign.train.layers import load_layers
from mmalign.train.plan import make_plan

OPTIONS = [
    "train.steps=24", "train.batch_size=8", "train.micro_batch_size=4", "train.warmup_steps=2", "train.save_every=2",
    "train.learning_rate=0.003", "data.num_workers=0", "backbone.patch_dropout=0.3", "evaluation.names=[\"retrieval\"]",
]  # fmt: skip


def sitting(model: Path, data: Path, folder: Path) -> None:
    """Start or go on, in a child process; never returns."""
    with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
        catalog = Catalog(load_plugins())
        if (folder / "run.json").is_file():
            launch.resume(folder, catalog, sets=[], allow_change=False, device="cpu", say=lambda line: None)
        else:
            names = {"objective": "contrastive", "backbone": str(model), "dataset": str(data)}
            plan = make_plan(catalog, load_layers(sets=OPTIONS, names=names))
            launch.start(plan, catalog, folder=folder, device="cpu", say=lambda line: None)
    os._exit(0)


def run(model: Path, data: Path, folder: Path, kill_after: float | None) -> float:
    """One sitting; kill -9 after so many seconds unless it ends first. Returns how long it ran."""
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            sitting(model, data, folder)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if kill_after is None and status:
        raise SystemExit(f"a sitting failed: {status}")
    return time.perf_counter() - began


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "open_clip_model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    model, data, out = map(Path, sys.argv[1:4])
    trials, kills, seed = map(int, sys.argv[4:7])
    rng = random.Random(seed)
    import open_clip  # noqa: F401  (before the forks)
    from matplotlib.backends import backend_agg  # noqa: F401
    from matplotlib.figure import Figure

    page.draw_curves = lambda records: Figure(figsize=(1, 1))  # several times as long as the training

    whole = run(model, data, out / "reference", None)
    expected = digest(out / "reference")
    identical, killed_with_steps, broken = 0, 0, 0
    for trial in range(trials):
        folder = out / f"trial-{trial}"
        for _ in range(kills):
            run(model, data, folder, rng.uniform(0.0, whole))
            for checkpoint in committed(folder / "checkpoints"):
                killed_with_steps += 1
                try:
                    verify(checkpoint)
                except Exception:
                    broken += 1
        run(model, data, folder, None)
        identical += digest(folder) == expected
    result = {"trials": trials, "kills": trials * kills, "identical": identical, "seconds_whole": round(whole, 2)}
    print(json.dumps({**result, "checkpoints_seen": killed_with_steps, "checkpoints_broken": broken}))


if __name__ == "__main__":
    main()
