r"""Reward modelling from comparisons and rankings: `mmalign train --objective reward`.

Pairs of one prompt (Bradley-Terry; Ouyang 2022, equation 1), the mean over a prompt's untied pairs, then over prompts:
    L = -1/N sum_i 1/|P_i| sum_{(w, l) in P_i} log sigmoid(r_w - r_l - margin (rank_l - rank_w))
Whole rankings (Plackett-Luce):
    L = -1/N sum_i 1/D_i sum_d [ r_d - log sum_{j not better than d} exp r_j ]

r = <v, h>: v a linear head, h the hidden state of an answer's last token. D: answers that are better than another one.
The prompt is read once, its K answers behind it. Ties are left out (`ties: half` splits them); a prompt whose answers
all tie teaches nothing and is counted. Only differences of scores are learnt, so the mean score of the best answers is
stored with the model and subtracted.

On a dual encoder r is the pair score of a picture and a text, without a new head. Where examples have weights, the
means over prompts are weighted. On Pick-a-Pic, whose weights are 1 over the number of a prompt's examples, the loss of
pairs with `ties: half` is PickScore's, but for its constant (Kirstain 2023, section 3, and the authors' code).

Metrics: accuracy is the share of untied pairs in the right order; accuracy_apart is the same over pairs whose ranks are
at least 1 apart. The two are equal where ranks are 1, 2, 3; where ranks are ratings, the second counts clear cases.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs
from mmalign.contract.trained import Comparison

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models


class RewardModelling(Objective):
    """Gives each answer a scalar, higher for answers that people ranked higher."""

    class Config(ObjectiveConfig):
        loss: Literal["pairs", "plackett-luce"] = Field(
            "pairs", description="all pairs of a prompt, or its whole order"
        )
        ties: Literal["drop", "half"] = Field(
            "drop", description="tied pairs: left out, or half a win for each (pairs)"
        )
        tie: float = Field(0.0, ge=0, description="ranks no more than this apart are tied (pairs)")
        margin: float = Field(
            0.0, ge=0, description="difference of scores required for each rank of difference (pairs)"
        )

    config: Config

    @property
    def comparison(self) -> Comparison:
        return Comparison(by="scores", tie=self.config.tie)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """scores: [N, K], 0 where a prompt has fewer answers."""
        return {"scores": batch["sequences"].by_prompt(self.score(models, batch))}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from torch.nn.functional import softplus

        from mmalign.language.sequences import ranks_of, weights_of
        from mmalign.ops.preference import plackett_luce, ranked_pairs

        scores, margin = outputs["scores"], self.config.margin
        ranks, present = ranks_of(batch, scores)
        ranked = ranked_pairs(
            scores,
            ranks,
            present,
            lambda difference, gap: softplus(-(difference - margin * gap)),
            tie=self.config.tie,
            split_ties=self.config.ties == "half",
        )
        losses, counted = ranked.losses, ranked.counted
        if self.config.loss == "plackett-luce":
            losses, counted = plackett_luce(scores, ranks, present)
        metrics = {
            "accuracy": (ranked.right.sum(), ranked.pairs.sum()),
            "accuracy_apart": (ranked.right_apart.sum(), ranked.pairs_apart.sum()),
            "score": (scores.detach().masked_fill(~present, 0).sum(), present.sum()),
            "all_tied": ((1 - counted).sum(), len(batch)),
        }
        return {"ranking": (losses * counted * weights_of(batch, losses)).sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        """The weights of prompts with answers that differ in rank (or, with ties split, with two answers)."""
        from mmalign.language.sequences import num_ranked

        if self.config.loss == "plackett-luce":
            return {"ranking": num_ranked(batch)}
        return {"ranking": num_ranked(batch, tie=self.config.tie, split_ties=self.config.ties == "half")}

    def save(self, models: "Models", folder: "Path", batches: "Iterable[Batch]") -> None:
        """Stores the mean score of the best-ranked answers too; the saved model subtracts it."""
        from mmalign.language.derive import save_scorer

        mean = self.mean_of_best(models, batches)
        save_scorer(models, "policy", folder, mean)

    def mean_of_best(self, models: "Models", batches: "Iterable[Batch]") -> float:
        """The mean score of the best-ranked answers."""
        from mmalign.language.sequences import ranks_of

        summed, number = 0.0, 0
        for batch in batches:
            scores = batch["sequences"].by_prompt(self.score(models, batch))
            ranks, present = ranks_of(batch, scores)
            best = present & (ranks == ranks.masked_fill(~present, float("inf")).min(1, keepdim=True).values)
            summed += float(scores[best].double().sum())
            number += int(best.sum())
        return summed / max(1, number)

    def score(self, models: "Models", batch: "Batch") -> "Tensor":
        """[M]: the score of every answer, before the mean is subtracted."""
        from mmalign.language.derive import answer_scores

        return answer_scores(models, "policy", batch["sequences"])
