"""The options that both kinds of dual encoder share.

class Config(DualEncoderOptions): ...
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mmalign.pairs.options import CANDIDATES, Candidates


def _ordered(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError("must be two shares of the area with 0 < least <= greatest <= 1")
    return scale


class DualEncoderOptions(BaseModel):
    """How training images are augmented (evaluation images never are), and the candidate texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop_scale: Annotated[tuple[float, float], AfterValidator(_ordered)] = Field(
        (0.9, 1.0), description="least and greatest share of an image's area that a training crop keeps"
    )
    flip_probability: float = Field(0.0, ge=0, le=1, description="share of training images that are mirrored")
    candidates: Candidates = CANDIDATES
