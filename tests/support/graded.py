"""What a third party's plugin brings with an example kind of its own: its dataclass, a data set, and two objectives."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field

from mmalign import Batch, Objective
from mmalign.contract.examples import Kept
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs
from mmalign.language.sequences import Sequences

# The plugin's own module, which imports none of this.
PLUGIN = f"""
from mmalign import DatasetSpec, ExampleSpec, ObjectiveSpec, Role, hookimpl

@hookimpl
def register_examples():
    return [ExampleSpec(name="graded-pair", summary="Two texts and how alike they are", target="{__name__}:GradedPair",
                        modalities=frozenset({{"text"}}), samples="{__name__}:pairs")]

@hookimpl
def register_datasets():
    return [DatasetSpec(name="grades", summary="Invented grades", target="{__name__}:Grades", kind="graded-pair",
                        default_for=("graded-pair",))]

@hookimpl
def register_objectives():
    return [ObjectiveSpec(name=name, summary="Meet a grade", target=f"{__name__}:{{target}}",
                          roles=(Role(name="policy", needs=needs),), examples={{"main": ("graded-pair",)}})
            for name, target, needs in (("grade-cosine", "GradeCosine", ("encode_text",)),
                                        ("grade-likelihood", "GradeLikelihood", ("hidden_states", "token_logps")))]
"""
_WORDS = ("a cat", "a small dog", "red car", "the photo of a tree", "a house")


@dataclass(frozen=True)
class GradedPair:
    """Two texts and a grade from 0 to 1. source: who gave it."""

    key: Kept
    left: str
    right: str
    grade: float
    source: Kept = "invented"


def pairs(size: int) -> list[GradedPair]:
    return [
        GradedPair(f"pair:{i}", f"{_WORDS[i % 5]} and a bird" + " and a fish" * (i // 5), _WORDS[-i % 5], i % 3 / 2)
        for i in range(size)
    ]


class Grades:
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        size: int = Field(16, ge=2, description="examples, a quarter of them held out")

    def __init__(self, examples: list[GradedPair]) -> None:
        self._examples = examples

    @classmethod
    def build(cls, config: Any, split: str) -> Self:
        held_out = config.size // 4
        examples = pairs(config.size)
        return cls(examples[held_out:] if split == "train" else examples[:held_out])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> GradedPair:
        return self._examples[index]

    def report(self) -> dict[str, Any]:
        return {"kept": len(self), "skipped": {}, "source": "invented"}

    def fingerprint(self) -> str:
        return f"grades {len(self)}"


class GradeCosine(Objective):
    """The squared gap between the cosine of two texts and their grade."""

    class Config(ObjectiveConfig):
        pass

    def forward(self, models: Any, batch: Batch) -> Outputs:
        encode = models["policy"].encode_text
        return {"cosine": (encode(batch["left"]) * encode(batch["right"])).sum(1)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, torch.Tensor], Metrics]:
        return {"gap": (outputs["cosine"] - batch["grade"]).square().sum()}, {}

    def count(self, batch: Batch) -> dict[str, float]:
        return {"gap": len(batch)}


class GradeLikelihood(Objective):
    """The likelihood of each left text, weighed by the grade."""

    class Config(ObjectiveConfig):
        pass

    def forward(self, models: Any, batch: Batch) -> Outputs:
        policy, sequences = models["policy"], Sequences.documents(batch["left"])
        sums = torch.zeros(len(batch), dtype=torch.float64)
        logps = policy.token_logps(policy.hidden_states(sequences)).logps
        owner = torch.repeat_interleave(torch.arange(len(batch)), sequences.num_labels())
        return {"logp": sums.to(logps).index_add(0, owner.to(logps.device), logps)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, torch.Tensor], Metrics]:
        return {"nll": -(outputs["logp"] * (0.5 + batch["grade"])).sum()}, {}

    def count(self, batch: Batch) -> dict[str, float]:
        return {"nll": len(batch)}
