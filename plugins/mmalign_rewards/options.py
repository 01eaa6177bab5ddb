"""The options of rewards that use models, in a file of their own so that they are checked before torch is imported."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def lasting(reference: str) -> str:
    """A reference to a model, with a local path made absolute, so that a run can be resumed from any directory."""
    prefix, _, rest = reference.partition(":")
    if rest.startswith(("./", "../", "~")):
        return f"{prefix}:{Path(rest).expanduser().absolute()}"
    path = Path(reference).expanduser()
    return str(path.absolute()) if os.sep in reference and path.exists() else reference


def _existing(path: str) -> str:
    if path and not Path(path).expanduser().is_file():
        raise ValueError("no such file")
    return path and str(Path(path).expanduser().absolute())


Reference = Annotated[str, AfterValidator(lasting)]


class RewardModelRewardConfig(BaseModel):
    """The reward model to use."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    path: Reference = Field(
        description="the reward model, as --backbone takes it: a folder (RUN/model), or hf:ORG/NAME"
    )
    tokens_at_once: int = Field(
        16384, ge=1, description="most tokens of a forward pass, padding included; at least one text"
    )

    def places(self) -> tuple[Path, ...]:
        """The folder, where it is one: a resumed run compares its content."""
        return (Path(self.path),) if Path(self.path).exists() else ()


class ClipScoreConfig(BaseModel):
    """The image or the text to compare answers with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Annotated[str, AfterValidator(_existing)] = Field(
        "", description="an image file that answers should describe"
    )
    text: str = Field("", description="a text that answers should resemble")
    backbone: Reference = Field("clip-lite", description="the dual encoder, as --backbone takes it")
    batch_size: int = Field(64, ge=1, description="answers of a forward pass")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if bool(self.image) == bool(self.text):
            raise ValueError("give one of `image` and `text`")
        return self
