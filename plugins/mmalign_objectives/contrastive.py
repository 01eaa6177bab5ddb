r"""Contrastive training of image-text encoders: `mmalign train --objective contrastive`.

InfoNCE (CLIP; Radford 2021):  L = 1/(2B) sum_i [CE(z_i., i) + CE(z_.i, i)],          z_ij = exp(t) <x_i, y_j>
Sigmoid (SigLIP; Zhai 2023): L = -1/B sum_ij log sigmoid(s_ij (exp(t) <x_i, y_j> + b)),  s_ij = 1 for matches, else -1

x_i, y_i: [D] unit embeddings of image i and text i; t, b: learned scalars; B: the global batch.
Use InfoNCE for batches of a few hundred upwards and models that use it already; sigmoid where batches are small or the
model has a learned bias. Examples with the same caption or the same image count as matches of each other (InfoNCE
spreads the target evenly over them), so duplicate captions are no false negatives.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmalign import Objective
from mmalign.contract.backbone import DualEncoder
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs, Phase
from mmalign.errors import IncompatibleError

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models


class Contrastive(Objective):
    """InfoNCE or the sigmoid loss over the global batch, in chunks."""

    class Config(ObjectiveConfig):
        loss: Literal["infonce", "sigmoid"] = Field("infonce", description="infonce (CLIP) or sigmoid (SigLIP)")
        multi_positive: bool = Field(True, description="equal captions, and captions of one image, match each other")
        max_scale: float = Field(
            100.0, gt=1, description="the scale exp(t) is kept within [1, max_scale] after each step"
        )
        chunk: int = Field(0, ge=0, description="rows of the score matrix held at once; 0: chosen for about 8 MB")

    coupled: ClassVar[bool] = True
    config: Config

    def phases(self, models: "Models") -> Mapping[str, tuple[Phase, ...]]:
        if self.config.loss == "sigmoid" and models.role("policy", DualEncoder).contrastive_head().bias is None:
            raise IncompatibleError(
                "objective.loss=sigmoid needs a learned bias, and this model has none",
                hint="Add one: --set backbone.init_logit_bias=-10 --set backbone.init_logit_scale=2.302585",
            )
        return super().phases(models)

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """image, text: [N, D]; scale, bias: [N]; ids: [N, 2] int64 (caption, image)."""
        policy, size = models.role("policy", DualEncoder), len(batch)
        head = policy.contrastive_head()
        outputs = {
            "image": policy.encode_image(batch["image"]),
            "text": policy.encode_text(batch["text"]),
            "scale": head.log_scale.exp().expand(size),
            "ids": self._ids(batch),
        }
        if self.config.loss == "sigmoid" and head.bias is not None:
            outputs["bias"] = head.bias.expand(size)
        return outputs

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        import torch

        from mmalign.ops import info_nce, sigmoid_pairs

        image, text, scale, ids = (outputs[name] for name in ("image", "text", "scale", "ids"))
        if not self.config.multi_positive:
            ids = torch.arange(len(ids), device=ids.device)[:, None]
        if self.config.loss == "infonce":
            summed, hits = info_nce(image, text, scale, ids, self.config.chunk)
        else:
            summed, hits = sigmoid_pairs(image, text, scale, outputs["bias"], ids, self.config.chunk)
        metrics = {"accuracy": (hits, len(image)), "scale": (scale.detach().sum(), len(image))}
        return {"contrastive": summed}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"contrastive": len(batch)}

    def constrain(self, models: "Models") -> None:
        head = models.role("policy", DualEncoder).contrastive_head()
        head.log_scale.detach().clamp_(0.0, math.log(self.config.max_scale))

    @staticmethod
    def _ids(batch: "Batch") -> "Tensor":
        """[B, 2] int64: a hash of the caption and a hash of the image; two examples match where either is equal."""
        import torch

        from mmalign.hashing import stable_hash

        captions = [stable_hash("text", caption) >> 1 for caption in batch["caption"]]
        groups = [
            stable_hash("image", group or key) >> 1 for group, key in zip(batch["group"], batch["key"], strict=True)
        ]
        ids = torch.tensor(list(zip(captions, groups, strict=True)), dtype=torch.int64).reshape(-1, 2)
        return ids.to(batch["image"].device)
