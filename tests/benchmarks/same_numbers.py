"""Whether a change of the code leaves every number alone: short runs of all objectives, digested.

    python tests/benchmarks/same_numbers.py --save before.json       # on the code before
    python tests/benchmarks/same_numbers.py --compare before.json    # on the code after: names every case that differs

Each case is a run of `mmalign train` at a fixed seed, on one thread, with the embedded models and data. Digested are
the records of metrics.jsonl without their times, the weights of the model folder, and the tensors of the last
checkpoint. Digests hold on one machine with one set of releases: they compare two states of the code.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

COMMON = (
    "train.steps=3", "train.batch_size=8", "train.warmup_steps=1", "train.eval_every=2", "train.save_every=2",
    "train.log_every=1", "data.num_workers=0", "evaluation.max_examples=12", "evaluation.samples=1",
)  # fmt: skip
ONLINE = ("rollout.samples=4", "rollout.max_tokens=12", "rollout.heldout_answers=8", "train.batch_size=4")
LORA = ("backbone.lora.rank=4", "backbone.lora.dropout=0.1")
CASES: dict[str, tuple[str, ...]] = {
    "classify": (), "contrastive": (), "cpo": (), "dpo": (), "kto": (), "orpo": (), "pretrain": (), "reward": (),
    "sft": (), "simpo": (),
    "grpo": ONLINE, "online-dpo": ONLINE, "ppo": ONLINE, "rloo": ONLINE,
    "contrastive sigmoid": (
        "objective.loss=sigmoid", "train.micro_batch_size=4", "backbone.init_logit_bias=-10",
        "backbone.init_logit_scale=2.3",
    ),
    "contrastive wise": ("train.wise_ft=0.5", "train.ema_decay=0.9"),
    "contrastive lora": LORA,
    "dpo whole": ("train.micro_batch_size=0", "objective.loss=ipo"),
    "dpo lora": (*LORA, "train.micro_batch_size=4"),
    "dpo bf16": ("train.precision=bf16",),
    "dpo ema": ("train.ema_decay=0.9", "train.micro_batch_size=2"),
    "reward lora": LORA,
    "sft neftune": ("backbone.neftune_alpha=5", "train.gradient_checkpointing=true"),
    "ppo updates": (
        *ONLINE, "objective.epochs=2", "objective.minibatches=2", "objective.kl_target=0.5",
        "objective.scale_scores=true", "objective.ptx_coef=0.5", "objective.ptx_batch_size=4",
    ),
    "ppo lora": (*ONLINE, *LORA),
    "grpo updates": (*ONLINE, "objective.epochs=2", "objective.minibatches=2", "train.micro_batch_size=2"),
    "grpo calculator": (*ONLINE, "--dataset", "arithmetic", "--environment", "calculator", "rollout.max_turns=2"),
}  # fmt: skip
TIMES = ("seconds", "per_second", "memory", "_share", "time", "examples_s", "tokens_s", "wall")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--save", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    digests = {}
    for name, options in CASES.items():
        if args.only in name:
            digests[name] = digest_of(name, options)
            print(f"{name:20} {digests[name]}", file=sys.stderr, flush=True)
    if args.save:
        args.save.write_text(json.dumps(digests, indent=1) + "\n")
    if args.compare:
        before = {name: digest for name, digest in json.loads(args.compare.read_text()).items() if args.only in name}
        differing = [name for name in before | digests if before.get(name) != digests.get(name)]
        print(
            f"{len(digests) - len(differing)} of {len(before)} cases equal to the bit; differing: {differing or 'none'}"
        )
        sys.exit(bool(differing))


def digest_of(name: str, options: tuple[str, ...]) -> dict[str, str]:
    """What a run leaves, digested: metrics, model, checkpoint."""
    from mmalign.cli import run

    names = [part for part in options if "=" not in part]
    sets = [*COMMON, *(part for part in options if "=" in part)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        command = ["train", "--objective", name.split()[0], "--device", "cpu", "--out", str(folder), *names]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = run([*command, *(part for value in sets for part in ("--set", value))])
        if code:
            sys.exit(f"{name}: exit {code}\n{said.getvalue()}")
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        checkpoint = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
        return {
            "metrics": _digest(json.dumps([_timeless(record) for record in records], sort_keys=True).encode()),
            "model": _digest(*_weights(folder / "model")),
            "checkpoint": _digest(*_weights(checkpoint)),
        }


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not any(word in k for word in TIMES)}
    return value


def _weights(folder: Path) -> list[bytes]:
    """Names, shapes and bytes of all tensors under a folder, whatever file holds them."""
    import torch
    from safetensors.torch import load_file

    tensors = {name: tensor for path in folder.rglob("*.safetensors") for name, tensor in load_file(path).items()}
    lines = []
    for name, tensor in sorted(tensors.items()):
        lines.append(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        lines.append(tensor.contiguous().flatten().view(dtype=torch.uint8).numpy().tobytes())
    return lines


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
