r"""Contrastive training of encoders, of pictures and texts or of texts alone: `mmalign train --objective contrastive`.

InfoNCE (CLIP; Radford 2021):  L = 1/(2B) sum_i [CE(z_i., i) + CE(z_.i, i)],          z_ij = exp(t) <x_i, y_j>
  of one direction (van den Oord 2018): L = 1/B sum_i CE(z_i., i)
Sigmoid (SigLIP; Zhai 2023): L = -1/B sum_ij log sigmoid(s_ij (exp(t) <x_i, y_j> + b)),  s_ij = 1 for matches, else -1

x_i, y_i: [D] unit embeddings of the two sides of example i: an image and its text, or a text to search with (anchor)
and the one to find (positive); t, b: learned or fixed scalars; B: the global batch. Hard negatives are further columns
j of z_i. for every i; the direction z_.j has none for them.
Use InfoNCE for batches of a few hundred upwards and models that use it already; sigmoid where batches are small or the
model has a learned bias. Examples with the same text or the same image (anchor) count as matches of each other (InfoNCE
spreads the target evenly over them), so duplicates are no false negatives.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.contract.backbone import DualEncoder
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs, Phase
from mmalign.errors import IncompatibleError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.batch import Ragged
    from mmalign.contract.roles import Models


_NEAR = 1.01  # of a scale at its limit, as CLIP's are


class Contrastive(Objective):
    """InfoNCE or the sigmoid loss over the global batch, in chunks."""

    class Config(ObjectiveConfig):
        loss: Literal["infonce", "sigmoid"] = Field("infonce", description="infonce (CLIP) or sigmoid (SigLIP)")
        directions: Literal["both", "first"] = Field(
            "both", description="of infonce: both ways; or from images (anchors) to texts alone, as for searching"
        )
        multi_positive: bool = Field(
            True, description="equal texts, and texts of one image or one anchor, match each other"
        )
        max_scale: float = Field(
            100.0, gt=1, description="a learned scale exp(t) is kept within [1, max_scale] after each step"
        )
        chunk: int = Field(0, ge=0, description="rows of the score matrix held at once; 0: chosen for about 8 MB")

    coupled: ClassVar[bool] = True
    config: Config

    def phases(self, models: "Models") -> Mapping[str, tuple[Phase, ...]]:
        head, limit = models.role("policy", DualEncoder).contrastive_head(), self.config.max_scale
        if self.config.loss == "sigmoid" and head.bias is None:
            raise IncompatibleError(
                "objective.loss=sigmoid needs a learned bias, and this model has none",
                hint="Use --set objective.loss=infonce; or add one, where the backbone has these options: "
                "--set backbone.init_logit_bias=-10 --set backbone.init_logit_scale=2.302585",
            )
        scale = math.exp(float(head.log_scale.detach()))
        if head.log_scale.requires_grad and not 1 / _NEAR <= scale <= limit * _NEAR:
            raise UsageError(
                f"the model's scale {scale:.4g} (temperature {1 / scale:.4g}) is outside of 1 to objective.max_scale="
                f"{limit:g}: the first step would move it there",
                hint=f"Try: --set objective.max_scale={2 * scale:.3g}" if scale > 1 else "Start with a scale above 1.",
            )
        return super().phases(models)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """x, y: [N, D]; scale, bias: [N]; ids: [N, 2] int64. Of pairs of texts also negative: [N, D], and negative_ids:
        [N] int64, -1 where there is none."""
        policy, size = models.role("policy", DualEncoder), len(batch)
        head = policy.contrastive_head()
        sides = self._image_text if "image" in batch else self._text_pairs
        outputs = {**sides(policy, batch), "scale": head.log_scale.exp().expand(size)}
        if self.config.loss == "sigmoid" and head.bias is not None:
            outputs["bias"] = head.bias.expand(size)
        return outputs

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        import torch

        from mmalign.ops import info_nce, sigmoid_pairs

        x, y, scale, ids = (outputs[name] for name in ("x", "y", "scale", "ids"))
        if "negative" in outputs:
            numbers = outputs["negative_ids"]
            given = numbers >= 0
            y = torch.cat([y, outputs["negative"][given]])
            numbers = numbers[given]
            # As a text it may be another example's positive; it has no anchor of its own.
            ids = torch.cat([ids, torch.stack([numbers, torch.full_like(numbers, -1)], 1)])
        if not self.config.multi_positive:
            ids = torch.arange(len(ids), device=ids.device)[:, None]
        if self.config.loss == "infonce":
            both = self.config.directions == "both"
            summed, hits = info_nce(x, y, scale, ids, self.config.chunk, both=both)
        else:
            summed, hits = sigmoid_pairs(x, y, scale, outputs["bias"], ids, self.config.chunk)
        metrics = {"accuracy": (hits, len(x)), "scale": (scale.detach().sum(), len(x))}
        return {"contrastive": summed}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"contrastive": len(batch)}

    def constrain(self, models: "Models") -> None:
        head = models.role("policy", DualEncoder).contrastive_head()
        head.log_scale.detach().clamp_(0.0, math.log(self.config.max_scale))

    @staticmethod
    def _image_text(policy: DualEncoder, batch: "Batch") -> Outputs:
        pictures = batch["image"]
        groups = [group or key for group, key in zip(batch["group"], batch["key"], strict=True)]
        return {
            "x": policy.encode_image(pictures),
            "y": policy.encode_text(batch["text"]),
            "ids": _ids(batch["caption"], groups, pictures.device),
        }

    @staticmethod
    def _text_pairs(policy: DualEncoder, batch: "Batch") -> Outputs:
        """One pass for all texts."""
        import torch

        negative = batch["negative"]
        given = (negative.lengths > 0).nonzero()[:, 0]
        columns = [batch["anchor"], batch["positive"], negative.select(given.tolist())]
        device = columns[0].values.device
        x, y, wrong = policy.encode_text(_joined(columns)).split([len(column) for column in columns])
        placed = torch.zeros_like(x).index_put((given.to(device),), wrong)
        numbers = [_number("text", text) if text else -1 for text in batch["negative_text"]]
        return {
            "x": x,
            "y": y,
            "negative": placed,
            "negative_ids": torch.tensor(numbers, dtype=torch.int64, device=device),
            "ids": _ids(batch["positive_text"], batch["anchor_text"], device),
        }


def _joined(columns: "Sequence[Ragged]") -> "Ragged":
    import torch

    from mmalign.contract.batch import Ragged

    values, lengths = ([getattr(column, name) for column in columns] for name in ("values", "lengths"))
    return Ragged.of_lengths(torch.cat(values), torch.cat(lengths))


def _ids(texts: "Sequence[str]", others: "Sequence[str]", device: "torch.device") -> "Tensor":
    """[N, 2] int64: a number for the text and one for the other side; two examples match where either is equal."""
    import torch

    pairs = [(_number("text", text), _number("image", other)) for text, other in zip(texts, others, strict=True)]
    return torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2)


def _number(side: str, name: str) -> int:
    """Not negative."""
    from mmalign.hashing import stable_hash

    return stable_hash(side, name) >> 1
