"""Nouns in many wordings, each with its target embedding: `--dataset noun-targets --set dataset.targets=targets.npz`.

The file holds words [M] (str), weights [M] and targets [M, D]. Example i is drawn from (seed, i) alone: a noun by its
weight, sometimes with a modifier or in the plural, bare or in a template: a label's wording should matter little.
"""

import bisect
import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmalign.errors import DataError
from mmalign_text_distillation.text_target import TextTarget

MODIFIERS = (
    *"red blue green yellow black white brown grey pink orange small large big little".split(),
    *"old new antique vintage modern wooden plastic metal steel glass leather paper ceramic".split(),
    *"electric toy shiny broken open closed colorful simple kitchen household garden office hand".split(),
    *("a pair of", "a set of", "two", "some", "an isolated", "a single"),
)


class NounTargets:
    """`examples` draws a pass."""

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        targets: str = Field(description="the .npz file that prepare_data.py wrote")
        examples: int = Field(200_000, gt=0, description="examples in one pass over the data")
        seed: int = Field(0, description="chooses which nouns and wordings are drawn")

    def __init__(self, config: Config) -> None:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        path = Path(config.targets)
        if not path.is_file():
            raise DataError(f"no targets at {path}", hint="python examples/embedded_clip/prepare_data.py writes them")
        with np.load(path) as file:
            self._words = [str(word) for word in file["words"]]
            self._targets = file["targets"].astype(np.float32)
            self._cumulative = np.cumsum(file["weights"] / file["weights"].sum()).tolist()
        # Texts, not functions, so that workers can be sent a copy.
        self._templates = [template("\0") for template in OPENAI_IMAGENET_TEMPLATES]
        self._config = config
        self._path = path

    @classmethod
    def build(cls, config: Any, split: str) -> Self | None:
        return cls(config) if split == "train" else None

    def __len__(self) -> int:
        return self._config.examples

    def __getitem__(self, index: int) -> TextTarget:
        rng = random.Random(f"{self._config.seed} {index}")
        row = min(bisect.bisect(self._cumulative, rng.random()), len(self._words) - 1)
        text = word_it(vary(self._words[row], rng), self._templates, rng)
        return TextTarget(key=f"{self._path.name}:{row}", text=text, target=self._targets[row])

    def report(self) -> Mapping[str, Any]:
        return {"source": str(self._path), "kept": len(self), "skipped": {}, "nouns": len(self._words)}

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._path.read_bytes())
        digest.update(self._config.model_dump_json(exclude={"targets"}).encode())
        return digest.hexdigest()


def vary(noun: str, rng: random.Random) -> str:
    """Mostly the noun; 6% with a modifier, 6% in the plural."""
    draw = rng.random()
    if draw < 0.06:
        return f"{rng.choice(MODIFIERS)} {noun}"
    if draw < 0.12 and not noun.endswith("s"):
        return noun + ("es" if noun.endswith(("ch", "sh", "x", "z")) else "s")
    return noun


def word_it(noun: str, templates: list[str], rng: random.Random) -> str:
    """50% "a photo of a", 20% bare, 15% in other short wordings, 15% in one of open_clip's 80 templates."""
    article = "an" if noun[0].lower() in "aeiou" and rng.random() < 0.7 else "a"
    draw = rng.random()
    if draw < 0.50:
        return f"a photo of {article} {noun}" + ("." if rng.random() < 0.15 else "")
    if draw < 0.70:
        return noun
    if draw < 0.78:
        return f"{article} {noun}"
    if draw < 0.85:
        return rng.choice(("This is a photo of {}.", "a photo of {}", "a photo of the {}.")).format(noun)
    return rng.choice(templates).replace("\0", noun)
