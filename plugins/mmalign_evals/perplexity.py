r"""How well a language model predicts texts it has not seen: `mmalign evaluate perplexity --dataset held_out.txt`.

perplexity    = exp( -1/T sum_t log p(x_t | x_<t) )                                (Jelinek 1977)
bits per byte = -1/(B ln 2) sum_t log p(x_t | x_<t)

T: predicted tokens; of a document all but the first, of an answer to a prompt all; the end token counts. B: bytes of
UTF-8 of those tokens. Perplexity compares models with one tokenizer; bits per byte compares any models. A document
longer than the context is cut, and counted.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.dataset import Dataset
from mmalign.contract.evaluation import Runtime
from mmalign.errors import DataError
from mmalign.evaluate.texts import TextSweep
from mmalign.language.derive import label_sums
from mmalign.language.protocols import AnswersProcessor
from mmalign.language.sequences import Sequences, sequences_of


class PerplexityConfig(BaseModel):
    """Which texts to predict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_examples: int = Field(0, ge=0, description="texts to predict, evenly spread over the data; 0: all")


class Perplexity:
    """An average over the predicted tokens of all texts: a long text weighs more than a short one."""

    Config: ClassVar[type[BaseModel]] = PerplexityConfig

    def __init__(self, config: PerplexityConfig) -> None:
        self.config = config

    def run(self, backbone: Any, dataset: Dataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises DataError where there is nothing to predict."""
        logp, tokens, size = 0.0, 0, 0
        sweep = TextSweep(backbone.processor, dataset, runtime, self.config.max_examples)
        with runtime.evaluating(backbone):
            for batch in sweep:
                sequences = sequences_of(batch)
                logp += float(label_sums(backbone, sequences)["logps"].double().sum())
                tokens += int(sequences.num_labels().sum())
                size += predicted_bytes(sequences, backbone.processor)
        if not tokens or not size:
            raise DataError("the texts hold nothing to predict", hint="Each needs two tokens at least.")
        metrics = {"perplexity": math.exp(min(-logp / tokens, 700.0)), "bits_per_byte": -logp / size / math.log(2)}
        return {**metrics, "tokens": tokens, "bytes": size, **sweep.counts()}


def predicted_bytes(sequences: Sequences, processor: AnswersProcessor) -> int:
    """Bytes of UTF-8 of all tokens that are labels, without the end token."""
    lengths = sequences.answers.lengths.tolist()
    rows = zip(sequences.answers.values.cpu().split(lengths), sequences.is_label.cpu().split(lengths), strict=True)
    return sum(len(processor.decode(ids[label & (ids != processor.end_id)]).encode()) for ids, label in rows)
