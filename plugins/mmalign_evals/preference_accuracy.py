r"""How often a language model prefers the answer that people prefer: `mmalign evaluate preference-accuracy`.

s(y) = log p(y | x),  or with a reference (the implicit reward of DPO over beta; Rafailov 2023, equation 5)
s(y) = log p(y | x) - log p_ref(y | x)

accuracy_sum        = share of pairs with s(chosen) > s(rejected), a tie counting half
accuracy_per_token  = the same with s(y) / |y|, because log p(y | x) alone favours the shorter of two answers
accuracy            = the one that fits the objective of the model's own run: against its reference if it learnt
                      against one (DPO), per token if its loss is (SimPO, ORPO, IPO); for other models, accuracy_sum

x: prompt; y: its answer with the end token; |y|: its number of tokens. A ranking gives all its untied pairs. On a dual
encoder, whose prompts or answers are pictures, log p(y | x) is up to a constant of x the pair score of x and y.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.dataset import Dataset
from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import ImageRef
from mmalign.contract.trained import Comparison
from mmalign.errors import UsageError
from mmalign.evaluate.pairs import PairAccuracy
from mmalign.evaluate.texts import TextSweep
from mmalign.language.derive import sequence_logps
from mmalign.language.protocols import AnswersProcessor
from mmalign.language.sequences import Sequences, rank_lists

_PROBED = 8
NO_REFERENCE = "none"


class PreferenceAccuracyConfig(BaseModel):
    """Which pairs to compare, and against which model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str = Field(
        "",
        description="the model to compare with, a folder or reference; empty: the reference of the model's own run, "
        "if it had one; none: no reference",
    )
    max_examples: int = Field(0, ge=0, description="prompts to use, evenly spread over the data; 0: all")


class PreferenceAccuracy:
    """The shares with 95% intervals, which take into account that pairs share prompts."""

    Config: ClassVar[type[BaseModel]] = PreferenceAccuracyConfig

    def __init__(self, config: PreferenceAccuracyConfig) -> None:
        self.config = config

    def run(self, backbone: Any, dataset: Dataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises UsageError for a reference with another tokenizer, DataError where no pair can be read or all tie."""
        trained = runtime.trained
        comparison = (trained and trained.comparison) or Comparison()
        name = self.config.reference or (trained.reference if trained and comparison.reference else "")
        reference = runtime.load_model(name) if name not in ("", NO_REFERENCE) else None
        if reference is not None:
            _require_same_tokens(backbone.processor, reference.processor, dataset, name)
        whole, per_token = PairAccuracy(tie=comparison.tie), PairAccuracy(tie=comparison.tie)
        sweep = TextSweep(backbone.processor, dataset, runtime, self.config.max_examples)
        with runtime.evaluating(backbone):
            for batch in sweep:
                sequences: Sequences = batch["sequences"]
                scores = sequence_logps(backbone, sequences).double()
                if reference is not None:
                    scores = scores - sequence_logps(reference, sequences).double()
                means = scores / sequences.num_labels().clamp(min=1).to(scores)
                counts = sequences.counts.tolist()
                rows = zip(scores.cpu().split(counts), means.cpu().split(counts), rank_lists(batch), strict=True)
                for sums, mean, ranks in rows:
                    whole.add(sums, ranks)
                    per_token.add(mean, ranks)
        whole.require()
        own = per_token if comparison.per_token else whole
        metrics = own.summary("accuracy") | whole.summary("accuracy_sum") | per_token.summary("accuracy_per_token")
        return {**metrics, "pairs": sum(whole.pairs), "tied_pairs": whole.tied, **sweep.counts()}


def _require_same_tokens(policy: AnswersProcessor, reference: AnswersProcessor, dataset: Dataset, name: str) -> None:
    """Raises UsageError unless both tokenise the first examples alike."""
    examples = (dataset[index] for index in range(min(_PROBED, len(dataset))))
    answered = (
        (example.prompt if isinstance(example.prompt, ImageRef) else "", text)
        for example in examples
        for text in example.answers()
        if isinstance(text, str) and text.strip()
    )
    for prompt, text in answered:
        if not torch.equal(policy.answers(prompt, [text]).answers[0], reference.answers(prompt, [text]).answers[0]):
            raise UsageError(
                f"evaluation.reference={name} has another tokenizer or context than the model, so their "
                "log-probabilities are of different tokens",
                hint="Give the model that training started from.",
            )
