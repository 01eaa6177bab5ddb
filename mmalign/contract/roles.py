"""The models of an objective, by the names of its roles.

policy = models.role("policy", CausalLM)       # typed as a Protocol that has the role's needs
models.head("critic")                          # the linear head of a role whose spec asks for one
"""

from typing import TYPE_CHECKING, Protocol, TypeVar

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
