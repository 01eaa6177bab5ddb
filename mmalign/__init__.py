"""mmalign: train, align and use CLIP encoders and GPT-style language models through one plugin registry.

Everything a plugin needs is importable from here; heavy modules load on first use:

    from mmalign import hookimpl, ObjectiveSpec, Objective
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "hookimpl": "mmalign.hookspecs",
    "BackboneSpec": "mmalign.specs",
    "CommandSpec": "mmalign.specs",
    "DatasetSpec": "mmalign.specs",
    "EngineSpec": "mmalign.specs",
    "EnvironmentSpec": "mmalign.specs",
    "EvaluationSpec": "mmalign.specs",
    "Family": "mmalign.specs",
    "ObjectiveSpec": "mmalign.specs",
    "RewardSpec": "mmalign.specs",
    "Rates": "mmalign.specs",
    "Role": "mmalign.specs",
    "Capability": "mmalign.capabilities",
    "Derived": "mmalign.capabilities",
    "Objective": "mmalign.objective",
    "Batch": "mmalign.data.batch",
    "Ragged": "mmalign.data.batch",
    "MmalignError": "mmalign.errors",
}
__all__ = ["__version__", *_LAZY]

if TYPE_CHECKING:  # the names of _LAZY, for type checkers
    from mmalign.capabilities import Capability, Derived
    from mmalign.data.batch import Batch, Ragged
    from mmalign.errors import MmalignError
    from mmalign.hookspecs import hookimpl
    from mmalign.objective import Objective
    from mmalign.specs import (
        BackboneSpec,
        CommandSpec,
        DatasetSpec,
        EngineSpec,
        EnvironmentSpec,
        EvaluationSpec,
        Family,
        ObjectiveSpec,
        Rates,
        RewardSpec,
        Role,
    )


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mmalign' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
