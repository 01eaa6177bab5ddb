r"""Triplet margin loss with in-batch negatives: `mmalign train --objective triplet`.

    L = 1/(2B) sum_i [max(0, m - s_ii + s_in(i)) + max(0, m - s_ii + s_n'(i)i)],   s_ij = <x_i, y_j>

x_i, y_i: [D] unit embeddings of image i and text i; m: the margin; B: the global batch. n(i) is the negative text of
image i, n'(i) the negative image of text i (VSE++; Faghri 2018, arXiv:1707.05612):
- hardest: the most similar one of the batch;
- semi-hard (FaceNet; Schroff 2015, arXiv:1503.03832): the most similar one of those less similar than the pair itself;
  where there is none, the least similar one.
Examples with the same caption, or of one image, are never negatives of each other.

It needs no temperature, so it suits backbones without a contrastive head. Semi-hard is steadier from random weights,
where the hardest negatives collapse all embeddings into one point; hardest refines a trained model.
"""

import hashlib
from typing import ClassVar, Literal

import torch
from pydantic import Field

from mmalign import Batch, Objective
from mmalign.contract.backbone import DualEncoder
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs
from mmalign.contract.roles import Models


class Triplet(Objective):
    """The triplet margin loss over the global batch, in both directions."""

    class Config(ObjectiveConfig):
        margin: float = Field(
            0.2, gt=0, le=2, description="how much closer a pair must be than its negative, in cosine"
        )
        negatives: Literal["semi-hard", "hardest"] = Field(
            "semi-hard", description="which negative of the batch counts"
        )

    coupled: ClassVar[bool] = (
        True  # negatives come from the whole batch, so mmalign caches gradients over micro-batches
    )
    config: Config

    def forward(self, models: Models, batch: Batch) -> Outputs:
        """image, text: [N, D]; ids: [N, 2] int64, equal where the caption or the image is."""
        policy = models.role("policy", DualEncoder)
        image, text = policy.encode_image(batch["image"]), policy.encode_text(batch["text"])
        ids = [[_id(caption), _id(group)] for caption, group in zip(batch["caption"], batch["group"], strict=True)]
        return {"image": image, "text": text, "ids": torch.tensor(ids, device=image.device).reshape(-1, 2)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, torch.Tensor], Metrics]:
        image, text, ids = outputs["image"], outputs["text"], outputs["ids"]
        scores = image @ text.T  # [B, B]
        same = (ids[:, None] == ids[None]).any(-1)  # [B, B]: matches, never negatives
        by_image = self._violations(scores, same)
        by_text = self._violations(scores.T, same)
        total = (by_image + by_text).sum() / 2
        met = ((by_image == 0) & (by_text == 0)).sum()
        return {"triplet": total}, {"margin_met": (met, len(image))}

    def count(self, batch: Batch) -> dict[str, float]:
        return {"triplet": len(batch)}

    def _violations(self, scores: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
        """[B]: how far each row's negative is within the margin; 0 where a row has no negative. scores: [B, B]."""
        pair = scores.diagonal()
        negative = scores.masked_fill(same, -torch.inf).amax(1)
        if self.config.negatives == "semi-hard":
            easier = scores.masked_fill(same | (scores >= pair[:, None]), -torch.inf).amax(1)
            easiest = scores.masked_fill(same, torch.inf).amin(1)
            negative = torch.where(easier.isfinite(), easier, easiest)
        has_negative = negative.isfinite()
        gap = self.config.margin - pair + torch.where(has_negative, negative, pair)
        return torch.where(has_negative, gap.clamp(min=0), 0)


def _id(text: str) -> int:
    """A 63-bit number that is the same for equal texts in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
