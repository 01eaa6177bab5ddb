"""What is promised of runs that go wrong, with counts: kills, damaged checkpoints, NaN, signals. About ten minutes.

    python tests/benchmarks/faults_injected.py --work work            # --only kills damage nan signals; --share 0.1

Tiny models, on one thread. The parent imports everything once and forks a child for each sitting. A row of the table is
what came out as promised, of how many; anything less ends with exit code 1.

    kills     SIGKILL at random moments, then a resume: weights, optimiser, generators and measurements to the bit
    damage    checkpoints cut, altered, emptied, missing, of another step, pipes, devices, odd manifests: not used, said
              so, and the resume equal to the bit
    nan       in loss, gradient, logits, reward or reference at a step: the run stops before the update of that step,
              and the last checkpoint is finite and of the step before
    signals   SIGINT and SIGTERM in the first two seconds of a process, in the decoding of pictures, in evaluation,
              rollouts, saving and the wait for data: exit code 130 or 143, every finished step saved, the resume equal
              to the bit
"""

import argparse
import contextlib
import functools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mmalign_lm.generation
from mmalign_data import reviews
from mmalign_report import page

from mmalign.data import images
from mmalign.data.loader import Stream
from mmalign.errors import MmalignError
from mmalign.rl import rewards
from mmalign.testing.bench import Workbench
from mmalign.train import checkpoint, finish, heldout, preview
from mmalign.train import run as launch
from mmalign.train.build import Job
from mmalign.train.loop import Loop
from tests.support.pictures import write_pairs
from tests.support.project import python_path
from tests.support.resume_cases import STEPS, Lab, Whole, assert_same_run, newest

OBJECTIVES = ("contrastive", "sft", "dpo", "ppo")
BOTH = (signal.SIGINT, signal.SIGTERM)
EVERY_STEP = ("train.save_every=1",)


class Runs:
    """Whole runs by objective, and sittings in children."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.lab = Lab(Workbench({}, {}), work / "runs")
        self.pairs = str(write_pairs(work / "pairs"))
        self.wholes: dict[str, tuple[Whole, float]] = {}

    def plan(self, objective: str, *options: str) -> Any:
        dataset = self.pairs if objective == "contrastive" else ""
        return self.lab.plan(objective, "micro-batches", *EVERY_STEP, *options, dataset=dataset)

    def whole(self, objective: str) -> tuple[Whole, float]:
        """A run that nothing stopped, and its seconds."""
        if objective not in self.wholes:
            began = time.perf_counter()
            run = self.lab.begin(self.plan(objective))
            self.wholes[objective] = run, time.perf_counter() - began
        return self.wholes[objective]

    def new(self) -> Path:
        return self.lab._new()

    def sitting(self, objective: str, folder: Path, inject: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Start or go on in a child; what it said, how it ended, and the last step that it made."""
        pid, told = self.fork(objective, folder, inject)
        os.waitpid(pid, 0)
        return json.loads(told.read_text()) if told.is_file() else {"ended": "killed", "lines": [], "step": 0}

    def fork(self, objective: str, folder: Path, inject: Callable[[], None]) -> tuple[int, Path]:
        told = folder.with_suffix(".json")
        told.unlink(missing_ok=True)
        pid = os.fork()
        if pid:
            return pid, told
        lines: list[str] = []
        ended, made = "finished", [0]
        update = Loop._update_or_save

        def counted(self: Loop, *arguments: Any) -> None:
            update(self, *arguments)
            made[0] = self.step + 1

        try:
            Loop._update_or_save = counted  # type: ignore[method-assign]
            with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
                inject()
                if (folder / "run.json").is_file():
                    self.lab.resume(folder, lines.append)
                else:
                    launch.start(self.plan(objective), self.lab.catalog, folder=folder, device="cpu", say=lines.append)
        except BaseException as error:
            ended = f"{type(error).__name__} {error}"
        finally:
            told.write_text(json.dumps({"ended": ended, "lines": lines, "step": made[0]}))
            os._exit(0)

    def same(self, objective: str, folder: Path) -> str:
        """What differs from the whole run; empty where nothing does."""
        try:
            assert_same_run(folder, self.whole(objective)[0].folder)
        except (AssertionError, OSError, MmalignError, LookupError) as error:
            return f"differs: {error!r}"[:300]
        return ""


def same_in_the_end(runs: Runs, objective: str, folder: Path) -> str:
    found = runs.sitting(objective, folder)
    return runs.same(objective, folder) if found["ended"] == "finished" else f"the resume ended by {found['ended']}"


# Kills ----------------------------------------------------------------------------------------------------------------


def kills(runs: Runs, rng: random.Random, count: int) -> Iterator[str]:
    for trial in range(count):
        objective = OBJECTIVES[trial % len(OBJECTIVES)]
        folder, seconds = runs.new(), runs.whole(objective)[1]
        for _ in range(1 + trial % 2):
            pid, _ = runs.fork(objective, folder, lambda: None)
            time.sleep(rng.uniform(0.0, seconds))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        yield same_in_the_end(runs, objective, folder)
        shutil.rmtree(folder)


# Damage ---------------------------------------------------------------------------------------------------------------


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def older(path: Path) -> None:
    """The same part of the checkpoint before."""
    before = checkpoint.committed(path.parents[1])[-2]
    shutil.copyfile(before / path.name, path)


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return write


def named(name: str) -> Callable[[Path], object]:
    return manifest(lambda content: content["files"].update({name: {"size": 0, "sha256": "0" * 64}}))


PARTS = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json")
HARMS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "of another step": older,
    "a pipe": lambda path: replaced(path, os.mkfifo),
    "a device": lambda path: replaced(path, lambda place: place.symlink_to("/dev/zero")),
}
FOLDER_HARMS: dict[str, Callable[[Path], object]] = {
    "manifest truncated": lambda folder: HARMS["truncated"](folder / "manifest.json"),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest a pipe": lambda folder: HARMS["a pipe"](folder / "manifest.json"),
    "manifest a device": lambda folder: HARMS["a device"](folder / "manifest.json"),
    "manifest names a device": named("/dev/zero"),
    "manifest names what is outside": named("../../run.json"),
    "manifest of another format": manifest(lambda content: content.update(format=99)),
    "manifest a list": manifest(lambda content: [content]),
    "manifest without a part": manifest(lambda content: content["files"].pop("optimizer.safetensors") and None),
    "manifest nested deep": lambda folder: (folder / "manifest.json").write_text("[" * 20_000),
    "manifest too large": lambda folder: (folder / "manifest.json").write_text(" " * 2**20),
    "folder empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


def damage(runs: Runs, rng: random.Random, count: int) -> Iterator[str]:
    cases = [
        (f"{part} {name}", functools.partial(_harm_part, part, harm)) for part in PARTS for name, harm in HARMS.items()
    ]
    cases = [*cases, *FOLDER_HARMS.items()][:count]
    for name, harm in cases:
        folder = runs.lab.copy(runs.whole("sft")[0].moments[f"{STEPS - 1}/{STEPS}"])
        damaged = newest(folder)
        harm(damaged)
        found = runs.sitting("sft", folder)
        if found["ended"] != "finished":
            yield f"{name}: the resume ended by {found['ended']}"
        elif not any(f"{damaged.name} is damaged and not used" in line for line in found["lines"]):
            yield f"{name}: used in silence"
        else:
            difference = runs.same("sft", folder)
            yield f"{name}: {difference}" if difference else ""
        shutil.rmtree(folder)


def _harm_part(part: str, harm: Callable[[Path], object], folder: Path) -> None:
    harm(folder / part)


# NaN ------------------------------------------------------------------------------------------------------------------


def poison(what: str, step: int) -> Callable[[], None]:
    """In the child: at this step (from 0) something becomes NaN."""

    def inject() -> None:
        update = Loop.update

        def poisoned(self: Loop, index: int, *arguments: Any, **more: Any) -> None:
            if index == step:
                _poison(what, self.job)
            update(self, index, *arguments, **more)

        Loop.update = poisoned  # type: ignore[method-assign]

    return inject


def _poison(what: str, job: Job) -> None:
    def nan(module: Any, given: Any, made: torch.Tensor) -> torch.Tensor:
        return made * math.nan

    if what == "loss":
        sane = job.objective.loss

        def loss(outputs: Any, batch: Any) -> Any:
            sums, metrics = sane(outputs, batch)
            return {name: value * math.nan for name, value in sums.items()}, metrics

        job.objective.loss = loss  # type: ignore[method-assign]
    elif what == "gradient":
        job.parameters[0][1].register_hook(lambda gradient: gradient * math.nan)
    elif what == "reward":
        score = rewards._score
        rewards._score = lambda reward, answers: torch.as_tensor(score(reward, answers), dtype=torch.float32) * math.nan
    else:
        role = job.models["policy"] if what == "logits" else job.models["reference"]
        next(m for m in role.module.modules() if isinstance(m, torch.nn.Embedding)).register_forward_hook(nan)


POISONS = {"loss": "sft", "gradient": "contrastive", "logits": "sft", "reward": "ppo", "reference (KL)": "ppo"}


def nan(runs: Runs, rng: random.Random, count: int) -> Iterator[str]:
    for trial in range(count):
        what, objective = list(POISONS.items())[trial % len(POISONS)]
        step = 1 + trial // len(POISONS) % (STEPS - 2)
        folder = runs.new()
        found = runs.sitting(objective, folder, poison(what, step))
        saved = checkpoint.newest(folder / "checkpoints", lambda line: None)
        name = f"{what} of {objective} at step {step + 1}"
        if not found["ended"].startswith(("NonFinite", "RewardError")):
            yield f"{name}: ended by {found['ended']}"
        elif saved is None or saved.step != step or found["step"] != step:
            yield f"{name}: saved {saved and saved.step}, made {found['step']}"
        elif not all(bool(tensor.isfinite().all()) for tensor in (*saved.model.values(), *saved.optimizer.values())):
            yield f"{name}: what is saved is not finite"
        else:
            yield ""
        shutil.rmtree(folder)


# Signals --------------------------------------------------------------------------------------------------------------


def at_call(owner: Any, name: str, number: int, signum: int, wait: float = 0.0) -> Callable[[], None]:
    """In the child: the call of that number sends the signal, then goes on as always."""

    def inject() -> None:
        sane, calls = getattr(owner, name), [0]

        @functools.wraps(sane)
        def signalled(*arguments: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signum)
                time.sleep(wait)
            return sane(*arguments, **more)

        setattr(owner, name, signalled)

    return inject


# where: (objective, what is called there, the range of calls)
PLACES: dict[str, tuple[str, Any, str, tuple[int, int]]] = {
    "decoding: header": ("contrastive", images, "_open_header", (1, 40)),
    "decoding: pixels": ("contrastive", images, "_flatten", (1, 40)),
    "evaluation": ("sft", heldout, "_heldout_loss", (1, 3)),
    "evaluation of dpo": ("dpo", heldout, "_heldout_loss", (1, 3)),
    "rollouts": ("ppo", mmalign_lm.generation, "draw", (1, 20)),
    "saving": ("sft", checkpoint, "_digest", (1, 20)),
    "the wait for data": ("sft", Stream, "__next__", (1, STEPS)),
}
TURNS = [*["decoding: header", "decoding: pixels"] * 5, *list(PLACES)[2:] * 4]


def signals(runs: Runs, rng: random.Random, count: int) -> Iterator[str]:
    early = min(10, count)
    for trial in range(early):
        yield early_signal(runs, BOTH[trial % 2], 0.15 + 1.85 * trial / max(1, early - 1))
    for trial, name in enumerate(TURNS[: count - early]):
        objective, owner, function, calls = PLACES[name]
        signum, folder = BOTH[trial % 2], runs.new()
        number = rng.randint(*calls)
        found = runs.sitting(objective, folder, at_call(owner, function, number, signum, 0.02))
        where = f"{signum.name} in {name}, call {number}"
        saved = checkpoint.newest(folder / "checkpoints", lambda line: None) if folder.exists() else None
        if found["ended"] != f"Interrupted {signum.name}":
            yield f"{where}: ended by {found['ended']}"
        elif found["step"] and (saved is None or saved.step < found["step"]):
            yield f"{where}: {found['step']} steps made, saved {saved and saved.step}"
        else:
            difference = same_in_the_end(runs, objective, folder)
            yield f"{where}: {difference}" if difference else ""
        shutil.rmtree(folder, ignore_errors=True)


def early_signal(runs: Runs, signum: signal.Signals, seconds: float) -> str:
    """A process of its own, from the command line, while it imports its libraries."""
    folder = runs.new()
    names = {"objective": "contrastive", "backbone": str(runs.plan("contrastive").source.folder), "dataset": runs.pairs}
    options = [f"--{name}={value}" for name, value in names.items()]
    command = [sys.executable, "-m", "mmalign", "train", *options, "--set", "train.steps=2000", "--out", str(folder)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": python_path()},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    time.sleep(seconds)
    process.send_signal(signum)
    try:
        _, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"{signum.name} after {seconds:.2f} s: lost, the process went on"
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    shutil.rmtree(folder, ignore_errors=True)
    return "" if code == 128 + signum else f"{signum.name} after {seconds:.2f} s: exit code {code}: {err[-200:]}"


CHECKS: dict[str, tuple[Callable[[Runs, random.Random, int], Iterator[str]], int]] = {
    "kills": (kills, 50),
    "damage": (damage, 40),
    "nan": (nan, 20),
    "signals": (signals, 40),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # None of it touches what is compared, and all takes most of the time of runs this small.
    page.write_page = lambda *arguments: None
    finish.SURVEYED = preview.SURVEYED = 8
    read = reviews.read
    reviews.read = functools.cache(lambda split: read(split)[:200])
    shutil.rmtree(given.work / "faults", ignore_errors=True)
    runs, misses = Runs(given.work / "faults"), 0
    for name in given.only:
        check, count = CHECKS[name]
        began, wrong = time.perf_counter(), list[str]()
        number = 0
        for number, problem in enumerate(check(runs, random.Random(given.seed), max(1, round(count * given.share))), 1):
            if problem:
                wrong.append(problem)
                print(f"  {name} {number}: {problem}", flush=True)
        misses += len(wrong)
        seconds = time.perf_counter() - began
        print(f"{name:<10} {number - len(wrong):>3} of {number:<3} as promised, {seconds:.0f} s", flush=True)
    sys.exit(bool(misses))


if __name__ == "__main__":
    main()
