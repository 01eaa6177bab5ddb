"""An objective that a third party wrote for language models runs on a dual encoder, unchanged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmalign.cli import run
from mmalign.testing.bench import Workbench
from tests.support.pictures import COLOURS, SHAPES, write_pairs

PLUGIN = """
from pydantic import Field

from mmalign import Objective, ObjectiveSpec, Role, hookimpl
from mmalign.contract.objective import ObjectiveConfig


class Likelier(Objective):
    class Config(ObjectiveConfig):
        margin: float = Field(1.0, description="least difference of log-probabilities, in nats")

    def forward(self, models, batch):
        from mmalign.language.derive import sequence_logps
        from mmalign.language.protocols import CausalLM

        sequences = batch["sequences"]
        return {"logps": sequences.by_prompt(sequence_logps(models.role("policy", CausalLM), sequences))}

    def loss(self, outputs, batch):
        chosen, rejected = outputs["logps"].unbind(1)
        short = (self.config.margin - (chosen - rejected)).clamp(min=0)
        return {"hinge": short.sum()}, {"accuracy": ((chosen > rejected).sum(), len(batch))}

    def count(self, batch):
        return {"hinge": float(len(batch))}


@hookimpl
def register_objectives():
    return [
        ObjectiveSpec(
            name="likelier",
            summary="The better of two answers is likelier by a margin",
            target="plug_likelier:Likelier",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
            examples={"main": ("preference",)},
        )
    ]
"""


def test_it_runs_on_a_clip(install: Callable[..., str], bench: Workbench, tmp_path: Path, capsys: Any) -> None:
    install("likelier", PLUGIN)
    assert run(["matrix", "likelier", "--json"]) == 0
    words = {item["family"]: item["verdict"] for item in json.loads(capsys.readouterr().out)["items"]}
    assert words["open-clip"] == words["siglip"] == "derived" and words["causal-lm"] == "yes"
    write_pairs(tmp_path, copies=2)
    names = [(f"{c}-{s}-{copy}.png", f"a {c} {s}") for copy in range(2) for c in COLOURS for s in SHAPES]
    rows = [
        {"image": file, "chosen": name, "rejected": names[(place + 1) % len(names)][1]}
        for place, (file, name) in enumerate(names)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "--objective", "likelier", "--backbone", str(bench.model("tiny-open-clip"))]
    sets = (
        "train.steps=30",
        "train.batch_size=8",
        "train.learning_rate=0.003",
        "data.num_workers=0",
        "dataset.holdout=0",
    )
    command += ["--dataset", str(tmp_path / "rows.jsonl"), "--device", "cpu", "--out", str(tmp_path / "run")]
    assert run([*command, *(part for option in sets for part in ("--set", option))]) == 0
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 0.7 * losses[0]
