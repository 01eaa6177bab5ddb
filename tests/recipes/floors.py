"""What each bare command must reach on held-out data: the worst of the measured runs with a margin.

The runs are those in BENCHMARKS.md and examples/embedded_gpt, most of one seed. `contrastive` starts at 0.428 and gets
little better, since its recipe keeps most of what the model knew.
"""

from typing import Literal, NamedTuple

from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import BUILTINS, load_plugins

OBJECTIVES = [entry.spec.name for entry in Catalog(load_plugins()).entries("objectives") if entry.plugin in BUILTINS]


class Floor(NamedTuple):
    """figure: of run.json's summary. value: the worst that `after` may be, in the direction that is better."""

    figure: str
    better: Literal["low", "high"]
    value: float

    def holds(self, before: float, after: float) -> bool:
        """Whether `after` is no worse than the floor, and better than `before`."""
        if self.better == "low":
            return after <= self.value and after < before
        return after >= self.value and after > before


FLOORS = {
    "contrastive": Floor("retrieval/mean_r1", "high", 0.43),
    "pretrain": Floor("heldout/loss", "low", 5.0),
    "sft": Floor("heldout/loss", "low", 4.83),
    "classify": Floor("heldout/accuracy", "high", 0.72),
    "reward": Floor("heldout/accuracy_apart", "high", 0.78),
    "dpo": Floor("heldout/accuracy_apart", "high", 0.63),
    "kto": Floor("heldout/loss", "low", 0.47),
    "simpo": Floor("heldout/accuracy", "high", 0.61),
    "orpo": Floor("heldout/accuracy", "high", 0.58),
    "cpo": Floor("heldout/accuracy", "high", 0.56),
    "ppo": Floor("heldout/score", "high", 0.45),
    "grpo": Floor("heldout/score", "high", 0.45),
    "rloo": Floor("heldout/score", "high", 0.45),
    "online-dpo": Floor("heldout/score", "high", 0.45),
}

OF_NAMED = {
    "embedder": Floor("text-retrieval/query_to_document_r10", "high", 0.12),
    "pasted-objects": Floor("heldout/accuracy", "high", 0.8),
    "picture-judge": Floor("heldout/accuracy", "high", 0.85),
    "drawing-groups": Floor("heldout/score", "high", 0.38),
}
"""Recipes with a name of their own, `mmalign train -c NAME`: as examples/clip_alignment and examples/text_embedder
measured them."""

PHOTOGRAPHS = {
    "baseball": "baseball",
    "bison": "bison",
    "bucket": "bucket",
    "cat": "tabby cat",
    "clownfish": "clownfish",
    "coffee": "espresso",
    "koala": "koala",
    "panda": "giant panda",
    "polar_bear": "polar bear",
}
"""The object that each sample photograph shows, among those that `mmalign zero-shot` knows."""
