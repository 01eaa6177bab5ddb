"""The models of an objective, by the names of its roles.

policy = models.role("policy", CausalLM)       # as the Protocol that the role's needs amount to
models.head("critic")                          # the linear head of a role whose spec has one
"""

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import nn

_Kind = TypeVar("_Kind")


class Models(Protocol):
    """classes: the names of the data set's classes, where a role has a head with a row for each."""

    classes: tuple[str, ...]

    def role(self, name: str, kind: type[_Kind]) -> _Kind:
        """The model of that role, typed as `kind`: a Protocol of capabilities that its spec says it needs. Two roles
        may be one model. Raises KeyError for a role that the spec does not name, or that this config never uses."""
        ...

    def head(self, name: str) -> "nn.Linear":
        """The linear head of that role; raises KeyError where its spec has none."""
        ...
