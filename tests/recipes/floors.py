"""What each bare command must reach on held-out data: the worst of the measured runs with a margin.

Those of `reward` and of the four that sample follow the figures in examples/embedded_gpt. `contrastive` and `classify`
were not measured to their end: 0.43 is where contrastive starts (0.428), and classify had 0.68 on its training batches
after 80 of 250 steps.
"""

from typing import Literal, NamedTuple

from mmalign.catalog import Catalog
from mmalign.plugins import BUILTINS, load_plugins

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
    "classify": Floor("heldout/accuracy", "high", 0.64),
    "reward": Floor("heldout/accuracy_apart", "high", 0.78),
    "dpo": Floor("heldout/accuracy_apart", "high", 0.63),
    "kto": Floor("heldout/loss", "low", 0.48),
    "simpo": Floor("heldout/accuracy", "high", 0.61),
    "orpo": Floor("heldout/accuracy", "high", 0.58),
    "cpo": Floor("heldout/accuracy", "high", 0.56),
    "ppo": Floor("heldout/score", "high", 0.45),
    "grpo": Floor("heldout/score", "high", 0.45),
    "rloo": Floor("heldout/score", "high", 0.45),
    "online-dpo": Floor("heldout/score", "high", 0.45),
}

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
