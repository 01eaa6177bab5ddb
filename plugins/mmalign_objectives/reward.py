r"""Reward modelling from comparisons and rankings: `mmalign train --objective reward`.

Pairs of one prompt (Bradley-Terry; Ouyang 2022, equation 1), the mean over a prompt's untied pairs, then over prompts:
    L = -1/N sum_i 1/|P_i| sum_{(w, l) in P_i} log sigmoid(r_w - r_l - margin (rank_l - rank_w))
Whole rankings (Plackett-Luce):
    L = -1/N sum_i 1/D_i sum_d [ r_d - log sum_{j not better than d} exp r_j ]

r = <v, h>: v a linear head, h the hidden state of an answer's last token. The prompt is read once, its K
answers behind it. Ties are left out (`ties: half` splits them); a prompt whose answers all tie is counted and teaches
nothing. Only differences are learnt, so the mean score of the best answers is stored with the model and taken off.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.objective import Metrics, ObjectiveConfig, Outputs

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mmalign import Batch
    from mmalign.train.models import Models


class RewardModelling(Objective):
    """A scalar for each answer, higher for what people ranked higher."""

    class Config(ObjectiveConfig):
        loss: Literal["pairs", "plackett-luce"] = Field(
            "pairs", description="all pairs of a prompt, or its whole order"
        )
        ties: Literal["drop", "half"] = Field(
            "drop", description="tied pairs: left out, or half a win for each (pairs)"
        )
        margin: float = Field(0.0, ge=0, description="by how much one rank must be scored apart (pairs)")

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.mean = 0.0

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """scores: [N, K], 0 where a prompt has fewer answers."""
        return {"scores": _padded(self.score(models, batch), batch)}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.ranking import plackett_luce, ranked_pairs

        scores = outputs["scores"]
        ranks, present = self._ranks(batch, scores)
        options = {"margin": self.config.margin, "split_ties": self.config.ties == "half"}
        losses, counted, right, pairs = ranked_pairs(scores, ranks, present, **options)
        if self.config.loss == "plackett-luce":
            losses, counted = plackett_luce(scores, ranks, present)
        metrics = {
            "accuracy": (right.sum(), pairs.sum()),
            "score": (scores.detach().masked_fill(~present, 0).sum(), present.sum()),
            "all_tied": ((1 - counted).sum(), len(batch)),
        }
        return {"ranking": (losses * counted).sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        """Prompts with answers that differ in rank (or, with ties split, with two answers)."""
        if "ranks" not in batch:
            return {"ranking": len(batch)}
        split = self.config.ties == "half" and self.config.loss == "pairs"
        return {"ranking": float(sum(len(set(ranks)) > 1 or (split and len(ranks) > 1) for ranks in batch["ranks"]))}

    def finish(self, models: "Models", batches: "Iterable[Batch]") -> None:
        """The mean score of the best-ranked answers, which is stored with the model."""
        total, number = 0.0, 0
        for batch in batches:
            scores = _padded(self.score(models, batch), batch)
            ranks, present = self._ranks(batch, scores)
            best = present & (ranks == ranks.masked_fill(~present, float("inf")).min(1, keepdim=True).values)
            total += float(scores[best].double().sum())
            number += int(best.sum())
        self.mean = total / max(1, number)

    def save(self, models: "Models", folder: "Path") -> None:
        models.policy.save_scorer(folder, models.heads["policy"], self.mean)

    def score(self, models: "Models", batch: "Batch") -> "Tensor":
        """[M]: of every answer, before the mean is taken off."""
        hidden = models.policy.hidden_states(batch["sequences"])
        return models.heads["policy"](hidden.states[hidden.layout.last])[:, 0]

    def state(self) -> Mapping[str, Any]:
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.mean = state["mean"]

    @staticmethod
    def _ranks(batch: "Batch", scores: "Tensor") -> "tuple[Tensor, Tensor]":
        """(ranks, present): [N, K] each; the answers of a preference are in order."""
        import torch

        counts = batch["sequences"].counts.to(scores.device)
        place = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
        present = place < counts[:, None]
        if "ranks" not in batch:
            return place.to(scores.dtype) + 1, present
        ranks = torch.zeros_like(scores)
        ranks[present] = torch.tensor([r for row in batch["ranks"] for r in row], dtype=scores.dtype).to(scores.device)
        return ranks, present


def _padded(scores: "Tensor", batch: "Batch") -> "Tensor":
    """[M] -> [N, K], zeros behind."""
    import torch

    sequences = batch["sequences"]
    width = int(sequences.counts.max()) if len(sequences) else 0
    owner = sequences.owner
    first = (sequences.counts.cumsum(0) - sequences.counts)[owner]
    out = scores.new_zeros(len(sequences), width)
    return out.index_put((owner.to(scores.device), (torch.arange(len(owner)) - first).to(scores.device)), scores)
