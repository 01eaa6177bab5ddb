"""How many files a reader must open: those whose functions run in one DPO step, and in one zero-shot call.

    python tests/benchmarks/way.py            # {"dpo step": 15, "zero-shot call": 35}
    python tests/benchmarks/way.py --list     # and which, in the order in which they are entered

Counted are files of mmalign and its plugins. The step is `Loop.update`, the second of a run of two, up to the
optimiser's own step: what is behind is bookkeeping. The call is the command of `mmalign zero-shot PHOTO`, from its
function to its return, the second in a process, so that what is read once and kept does not count.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "plugins" / "mmalign_data" / "photos" / "koala.jpg"


@contextmanager
def watched(files: dict[str, None], until: str = "") -> Iterator[None]:
    """Within, note each file of ours in which a function begins; the bodies of modules do not count. until: a function
    of torch's optimisers, behind whose first call nothing counts."""
    over = False

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal over
        code = frame.f_code
        over = over or (event == "call" and code.co_name == until and "torch/optim" in code.co_filename)
        if over:
            return
        if event != "call" or code.co_name == "<module>":
            return
        for package in ("mmalign", "plugins"):
            if code.co_filename.startswith(f"{ROOT / package}/"):
                files[str(Path(code.co_filename).relative_to(ROOT))] = None

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def files_of_a_dpo_step() -> list[str]:
    """In the order of first entry."""
    from mmalign.cli import run
    from mmalign.train.loop import Loop

    files: dict[str, None] = {}
    update: Callable[..., None] = Loop.update

    def watch(self: Loop, index: int, *arguments: Any) -> None:
        if index != 1:
            return update(self, index, *arguments)
        with watched(files, until="step"):
            return update(self, index, *arguments)

    Loop.update = watch  # type: ignore[method-assign]
    sets = ("train.steps=2", "train.batch_size=8", "train.warmup_steps=1", "train.save_every=0", "data.num_workers=0")
    sets += ("evaluation.max_examples=8", "evaluation.samples=0", "train.frozen_roles=copy", "train.micro_batch_size=8")
    with tempfile.TemporaryDirectory() as scratch:
        options = [part for value in sets for part in ("--set", value)]
        assert run(["-q", "train", "--objective", "dpo", "--device", "cpu", "--out", f"{scratch}/run", *options]) == 0
    return list(files)


def files_of_a_zero_shot_call() -> list[str]:
    from mmalign_zero_shot import command

    from mmalign.cli import run

    files: dict[str, None] = {}
    arguments = ["-q", "zero-shot", str(PHOTO), "--labels", "cat,koala", "--device", "cpu", "--json"]
    assert run(arguments) == 0
    own = command.command.callback

    def watch(*given: Any, **options: Any) -> Any:
        with watched(files):
            return own(*given, **options)

    command.command.callback = watch
    assert run(arguments) == 0
    return list(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    ways = {"dpo step": files_of_a_dpo_step(), "zero-shot call": files_of_a_zero_shot_call()}
    if args.list:
        for name, files in ways.items():
            print(f"{name}:", *files, sep="\n  ", file=sys.stderr)
    print(json.dumps({name: len(files) for name, files in ways.items()}))


if __name__ == "__main__":
    main()
