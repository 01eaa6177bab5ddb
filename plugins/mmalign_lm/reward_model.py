"""Trained reward models as a backbone: a scalar for each answer to a prompt, higher for answers that people ranked
higher.

    model = RewardModelBackbone.load(source, RewardModelConfig())
    model.score_sequences(batch["sequences"])            # [M], 0 for an answer as good as the best-ranked ones seen

Scores are those of transformers' AutoModelForSequenceClassification minus the config's `mmalign_reward_mean` (0 where
it has none). Loading tries a classifier on a few tokens, to check that its score is its head on the last token.
"""

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import BaseModel
from torch import Tensor

from mmalign.contract.batch import Ragged
from mmalign.errors import CheckpointError
from mmalign.language.sequences import Sequences
from mmalign.models.folder import quiet
from mmalign_lm.families import REWARD_MEAN
from mmalign_lm.folder import Parts, read, text_config
from mmalign_lm.options import CausalLMConfig, RewardModelConfig
from mmalign_lm.rows import try_unpacked
from mmalign_lm.scorer import Scorer, load_scorer, parts_of, save_beside
from mmalign_lm.trunk import Trunk, some_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mmalign.contract.source import Source

_TOLERANCE = 1e-4  # relative; float32 under another kernel


class RewardModelBackbone:
    """A trunk with a scalar head on the last token of an answer."""

    Config: ClassVar[type[BaseModel]] = RewardModelConfig

    def __init__(self, module: "Scorer | PreTrainedModel", parts: Parts) -> None:
        self.module = module
        self.processor = parts.processor
        self.vocabulary: tuple[str, ...] = ()
        stated = parts.config.to_dict()
        self.mean = float(stated.get(REWARD_MEAN) or 0.0)
        trunk, self._head = parts_of(module)
        self._trunk = Trunk(trunk, self._head.in_features)
        # A classifier reads the last token that is not padding, and padding may equal the end token.
        self._skipped = None if isinstance(module, Scorer) else stated.get("pad_token_id")
        vocabulary = int(text_config(parts.config).vocab_size)
        if not isinstance(module, Scorer):
            self._check_head(vocabulary)
        self._rows = try_unpacked(self._trunk, parts.config, vocabulary, parts.processor)

    @classmethod
    def load(cls, source: "Source", config: RewardModelConfig) -> Self:
        """Build the model in float32 on the CPU, in evaluation mode; raises CheckpointError."""
        parts = read(source, CausalLMConfig(context_length=config.context_length, template=config.template))
        return cls(load_scorer(parts.folder, parts.config).eval(), parts)

    def score_sequences(self, sequences: Sequences) -> Tensor:
        """[M], in the precision of the weights."""
        layout = self._rows.layout(sequences)
        last = layout.last.to(sequences.answers.values.device) - _trailing(sequences.answers, self._skipped)
        return self._head(self._trunk(layout)[last])[:, 0] - self.mean

    def save(self, folder: Path) -> None:
        """Write what `load` reads, and what transformers reads too where it has a classifier for the family."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            if isinstance(self.module, Scorer):
                save_beside(self.module.model, self.module.head, folder, {REWARD_MEAN: self.mean})
            else:
                self.module.save_pretrained(folder)
        self.processor.save(folder)

    def describe(self) -> Mapping[str, Any]:
        """Architecture and sizes, as loaded."""
        parameters = list(self.module.parameters())
        model = self.module.model if isinstance(self.module, Scorer) else self.module
        return {
            "architecture": type(model).__name__,
            "pretrained": True,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            "context_length": self.processor.context_length,
            "vocabulary_size": self.processor.num_tokens,
            "reward_mean": self.mean,
        }

    @torch.no_grad()
    def _check_head(self, vocabulary: int) -> None:
        ids = some_ids(vocabulary, 6)
        ids = torch.where(ids == self._skipped, (ids + 1) % vocabulary, ids) if self._skipped is not None else ids
        expected = self.module(input_ids=ids[None]).logits[0]
        if not torch.allclose(self._head(self._trunk.of_one(ids)[-1]), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise CheckpointError(
                f"{type(self.module).__name__} does not score with its head on the last token",
                hint="Reward models built on causal language models are supported.",
            )


def _trailing(answers: Ragged, skipped: int | None) -> Tensor:
    """[M]: how many tokens at the end of each answer are `skipped`."""
    counts = [sum(1 for _ in takewhile(lambda i: i == skipped, reversed(row.tolist()))) for row in answers.rows()]
    return torch.tensor(counts, dtype=torch.int64, device=answers.values.device)
