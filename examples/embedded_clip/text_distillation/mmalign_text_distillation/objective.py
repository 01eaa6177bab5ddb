r"""Distil a teacher's text embeddings: `mmalign train --objective text-distillation`.

L = 1/N sum_i [1 - <y_i, t_i>]  +  w/N sum_i KL(softmax(s A t_i) || softmax(s A y_i))

y_i, t_i: [D] unit embeddings of text i by the student and by the teacher; A: [K, D] unit anchors, here the classes that
pictures are compared with; s: a temperature. The cosine pulls every direction alike; the second term weighs the ones
that tell anchors apart (after Hinton 2015). Without an anchors file only the first term remains.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mmalign import Batch, Objective
from mmalign.contract.backbone import EncodesText
from mmalign.contract.objective import Context, Metrics, ObjectiveConfig, Outputs
from mmalign.contract.roles import Models
from mmalign.errors import DataError

_LENGTH_GROUPS = 4


class TextDistillation(Objective):
    """Cosine to the target, and the same neighbours among the anchors."""

    class Config(ObjectiveConfig):
        anchors: str = Field("", description=".npy file [K, D] of unit anchors; empty: none")
        anchor_weight: float = Field(0.3, ge=0, description="weight of the anchors' term")
        anchor_scale: float = Field(20.0, gt=0, description="s, the inverse temperature over anchors")

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._anchors = _read_anchors(config.anchors) if config.anchors else None

    @property
    def weights(self) -> dict[str, float]:
        return {"anchors": self.config.anchor_weight}

    def prepare(self, models: Models, batch: Batch, ctx: Context) -> Batch:
        """Adds goal [N, D]."""
        goal = torch.from_numpy(np.stack(batch["target"])) if len(batch) else torch.zeros(0, 1)
        return batch.with_columns(goal=goal.to(batch["text"].values.device))

    def forward(self, models: Models, batch: Batch) -> Outputs:
        """text: [N, D]. Encoded in groups of like length: nouns are short, some templates are not."""
        policy, tokens = models.role("policy", EncodesText), batch["text"]
        if len(batch) < 2 * _LENGTH_GROUPS:
            return {"text": policy.encode_text(tokens)}
        order = tokens.lengths.argsort()
        parts = [policy.encode_text(tokens.select(part.tolist())) for part in order.chunk(_LENGTH_GROUPS)]
        return {"text": torch.cat(parts)[order.argsort().to(parts[0].device)]}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, Tensor], Metrics]:
        text, goal = outputs["text"], batch["goal"]
        cosine = (text * goal).sum(-1)
        terms = {"cosine": (1 - cosine).sum()}
        if self._anchors is not None:
            anchors = self._anchors.to(text)
            student, teacher = (self.config.anchor_scale * x @ anchors.T for x in (text, goal))
            terms["anchors"] = F.kl_div(
                student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="sum"
            )
        return terms, {"similarity": (cosine.detach().sum(), len(batch))}

    def count(self, batch: Batch) -> dict[str, float]:
        return {"cosine": len(batch), "anchors": len(batch) if self._anchors is not None else 0}


def _read_anchors(path: str) -> Tensor:
    if not Path(path).is_file():
        raise DataError(f"no anchors at {path}", hint="Run prepare_data.py, or set objective.anchors to a .npy file")
    return torch.from_numpy(np.load(path).astype(np.float32))
