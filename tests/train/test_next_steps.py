"""The commands that a run suggests: made of its own data, whatever their kind, and accepted by the command line."""

import json
import shlex
from pathlib import Path

import click
import pytest

from mmalign.cli.app import App
from mmalign.cli.root import root
from mmalign.testing.bench import Workbench
from mmalign.train.layers import load_layers
from mmalign.train.next_steps import next_commands
from mmalign.train.plan import make_plan
from tests.support.pictures import write_pairs

MODEL = Path("runs/it's/model")  # a name that wants quoting
LONG = "word " * 40


def chat(question: str, answer: str) -> dict[str, object]:
    texts = (("system", "Be brief."), ("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in texts]}


def pair(prompt: str) -> dict[str, object]:
    return {"prompt": prompt, "chosen": " warm; and good", "rejected": " dull"}


CASES = {
    "plain": (
        "sft",
        [{"prompt": "a film was", "completion": " good"}],
        ["generate", "--backbone", "{m}", "a film was"],
    ),
    "unsafe": (
        "sft",
        [{"prompt": prompt, "completion": "x"} for prompt in ("a\x1b[31m", "--set=a.b=c", "@/etc/passwd", "-", "safe")],
        ["generate", "--backbone", "{m}", "safe"],
    ),
    "long": (
        "sft",
        [{"prompt": LONG, "completion": " good"}],
        ["generate", "--backbone", "{m}", "--dataset", "{d}", "--limit", "3"],
    ),
    "chat": ("sft", [chat("How was it?", "Good.")], ["generate", "--backbone", "{m}", "--chat", "How was it?"]),
    "pairs": ("dpo", [pair("a film was")], ["generate", "--backbone", "{m}", "a film was"]),
    "reward": (
        "reward",
        [pair("a film was")],
        ["score", "--backbone", "{m}", "--prompt", "a film was", " warm; and good", " dull"],
    ),
    "long reward": ("reward", [pair(LONG)], ["score", "--backbone", "{m}", "--dataset", "{d}"]),
    "prompts": ("grpo", [{"prompt": "a film was"}], ["generate", "--backbone", "{m}", "a film was"]),
}


def commands_of(bench: Workbench, objective: str, backbone: str, data: Path) -> list[list[str]]:
    sets = [] if objective != "grpo" else ['rollout.rewards=[{"name": "length"}]']
    names = {"objective": objective, "backbone": str(bench.model(backbone)), "dataset": str(data)}
    plan = make_plan(bench.catalog, load_layers(sets=[*sets, "dataset.holdout=0"], names=names))
    examples = plan.dataset_class.build(plan.configs["dataset"], "train")
    return [shlex.split(line) for line in next_commands(MODEL, plan, examples)]


@pytest.mark.parametrize("case", CASES)
def test_the_first_command_is_of_the_data(case: str, bench: Workbench, tmp_path: Path) -> None:
    objective, rows, expected = CASES[case]
    data = tmp_path / "my data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, *_ = commands_of(bench, objective, "tiny-llama", data)
    assert first == ["mmalign", *(word.format(m=MODEL, d=data) for word in expected)]
    accepted(first)


def test_of_pictures_it_names_one_and_captions(bench: Workbench, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs", copies=1)
    first, again = commands_of(bench, "contrastive", "tiny-open-clip", data)
    assert first[:2] == ["mmalign", "zero-shot"] and Path(first[2]).is_file() and first.count("--labels") == 3
    assert "a photo of a red square, number 0" in first
    assert again == ["mmalign", "train", "--objective", "contrastive", "--backbone", str(MODEL)]
    accepted(first)
    accepted(again)


def test_documents_begin_the_prompt(bench: Workbench, tmp_path: Path) -> None:
    data = tmp_path / "book.txt"
    data.write_text("It was a dark and stormy night; the rain fell in torrents.\n" * 30, encoding="utf-8")
    first, *_ = commands_of(bench, "pretrain", "tiny-llama", data)
    assert first == ["mmalign", "generate", "--backbone", str(MODEL), "It was a dark and stormy"]


def accepted(words: list[str]) -> None:
    """By click; nothing is run."""
    with click.Context(root, info_name="mmalign", obj=App(), **root.context_settings) as context:
        command = root.get_command(context, words[1])
        assert command is not None
        with command.make_context(words[1], words[2:], parent=context):
            pass
