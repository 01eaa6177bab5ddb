"""Objectives with one fault each, to show that the conformance kit finds it."""

from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from mmalign import Objective
from mmalign.contract.objective import ObjectiveConfig


class Sound(Objective):
    """Pull each image towards its text: sums, per example, nothing kept."""

    class Config(ObjectiveConfig):
        power: int = Field(2, ge=1, description="exponent")

    config: Any

    def forward(self, models: Any, batch: Any) -> Any:
        image, text = models["policy"].encode_image(batch["image"]), models["policy"].encode_text(batch["text"])
        return {"gap": (image - text).norm(dim=1)}

    def loss(self, outputs: Any, batch: Any) -> Any:
        return {"pull": (outputs["gap"] ** self.config.power).sum()}, {}

    def count(self, batch: Any) -> Any:
        return {"pull": len(batch)}


class LocalMean(Sound):
    def loss(self, outputs: Any, batch: Any) -> Any:
        return {"pull": outputs["gap"].mean()}, {}


class ByPosition(Sound):
    coupled: ClassVar[bool] = True

    def loss(self, outputs: Any, batch: Any) -> Any:
        gap = outputs["gap"]
        return {"pull": (gap * torch.arange(len(gap))).sum()}, {}


class Uncoupled(Sound):
    """Mixes examples without saying so."""

    def loss(self, outputs: Any, batch: Any) -> Any:
        return {"pull": outputs["gap"].sum() ** 2 / 100}, {}


class ScalarOutput(Sound):
    def forward(self, models: Any, batch: Any) -> Any:
        return {**super().forward(models, batch), "scale": models["policy"].contrastive_head().log_scale}


class NotFinite(Sound):
    def loss(self, outputs: Any, batch: Any) -> Any:
        return {"pull": (outputs["gap"] - 10).log().sum()}, {}


class WrongCount(Sound):
    def count(self, batch: Any) -> Any:
        return {"push": len(batch)}


class Climbs(Sound):
    def loss(self, outputs: Any, batch: Any) -> Any:
        return {"pull": (3 - outputs["gap"]).sum() + outputs["gap"].detach().sum() * 3}, {}


class Forgets(Sound):
    """A running mean that shapes the gradient and is not in `state`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.mean = 1.0

    def constrain(self, models: Any) -> None:
        self.mean *= 1.5

    def loss(self, outputs: Any, batch: Any) -> Any:
        return {"pull": (outputs["gap"] * self.mean - 0.1).abs().sum()}, {}


class Undescribed(Sound):
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="allow")
        power: int = 2
