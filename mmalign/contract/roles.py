"""The models of an objective, by the names of its roles.

policy = models.role("policy", CausalLM)       # typed as a Protocol that has the role's needs
models.head("critic")                          # the linear head of a role whose spec asks for one

The Config of an objective with a critic has an option `critic` of type CriticOptions.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import nn

_Kind = TypeVar("_Kind")


class Models(Protocol):
    """classes: the names of the data set's classes, if a role has a head with one row for each class."""

    classes: tuple[str, ...]

    def role(self, name: str, kind: type[_Kind]) -> _Kind:
        """The model of that role, typed as `kind`: a Protocol of the capabilities that the role's spec needs. Two roles
        may share one model. Raises KeyError for a role that the spec does not name or this config never uses."""
        ...

    def head(self, name: str) -> "nn.Linear":
        """The linear head of that role; raises KeyError if its spec asks for none."""
        ...


class CriticOptions(BaseModel):
    """What estimates the value of each token."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["auto", "head", "adapter", "copy"] = Field(
        "auto",
        description="head: on the policy's own trunk; adapter: an adapter of its own on the policy's frozen weights; "
        "copy: a model of its own; auto: adapter where the policy has one, else copy with a source, else head",
    )
    # Absolute, so that a run is resumed from anywhere.
    source: Annotated[str, AfterValidator(lambda path: path and str(Path(path).expanduser().absolute()))] = Field(
        "", description="folder of a reward model to start from (adapter, copy); empty: from the policy, values zero"
    )
    learning_rate: float = Field(0.0, ge=0, description="peak learning rate (adapter, copy); 0: the policy's")
