r"""How often a reward model orders two answers as people did: `mmalign evaluate reward-accuracy --backbone RM`.

accuracy          = share of a prompt's untied pairs whose better answer has the higher score, a tie counting half
accuracy_gap_g    = the same for pairs whose ranks are at least g apart, because close pairs are hard for people too

(Ouyang 2022, section 4.1 and appendix E, reports the first.) Ranks are lower for better answers; where answers were
rated, the distances of ranks are those of the ratings. A preference has ranks 1 and 2. Ranks that count as ties in the
model's own run (`objective.tie`) are ties in `accuracy` too.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.dataset import Dataset
from mmalign.contract.evaluation import Runtime
from mmalign.evaluate.pairs import PairAccuracy
from mmalign.evaluate.texts import TextSweep
from mmalign.language.protocols import RewardModel
from mmalign.language.sequences import rank_lists


class RewardAccuracyConfig(BaseModel):
    """Which pairs to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gaps: tuple[float, ...] = Field(
        (0.25, 0.5, 1.0, 2.0), description="smallest differences of two ranks; a metric for each"
    )
    max_examples: int = Field(0, ge=0, description="prompts to use, evenly spread over the data; 0: all")


class RewardAccuracy:
    """The shares and their numbers of pairs, with 95% intervals that take into account that pairs share prompts."""

    Config: ClassVar[type[BaseModel]] = RewardAccuracyConfig

    def __init__(self, config: RewardAccuracyConfig) -> None:
        self.config = config

    def run(self, backbone: RewardModel, dataset: Dataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises DataError where nothing can be read, or every pair ties."""
        comparison = runtime.trained and runtime.trained.comparison
        everything = PairAccuracy(tie=comparison.tie if comparison else 0.0)
        apart = {f"gap_{gap:g}": PairAccuracy(gap) for gap in self.config.gaps}
        sweep = TextSweep(backbone.processor, dataset, runtime, self.config.max_examples)
        with runtime.evaluating(backbone):
            for batch in sweep:
                sequences = batch["sequences"]
                by_prompt = backbone.score_sequences(sequences).cpu().split(sequences.counts.tolist())
                for scores, ranks in zip(by_prompt, rank_lists(batch), strict=True):
                    for accuracy in (everything, *apart.values()):
                        accuracy.add(scores, ranks)
        everything.require()
        metrics = everything.summary("accuracy") | {"pairs": sum(everything.pairs), "tied_pairs": everything.tied}
        for name, accuracy in apart.items():
            metrics |= {**accuracy.summary(f"accuracy_{name}"), f"pairs_{name}": sum(accuracy.pairs)}
        return {**metrics, **sweep.counts()}
