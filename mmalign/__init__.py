"""mmalign: train, align and use CLIP encoders and GPT-style language models through one plugin registry.

Plugins import the contract from here; heavy modules load on first use:

    from mmalign import hookimpl, ObjectiveSpec, Objective
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmalign.version import CONTRACT_VERSION, __version__

_LAZY = {
    "hookimpl": "mmalign.contract.hooks",
    "SAMPLED_ANSWERS": "mmalign.contract.specs",
    "BackboneSpec": "mmalign.contract.specs",
    "CommandSpec": "mmalign.contract.specs",
    "DatasetSpec": "mmalign.contract.specs",
    "EngineSpec": "mmalign.contract.specs",
    "EnvironmentSpec": "mmalign.contract.specs",
    "EvaluationSpec": "mmalign.contract.specs",
    "ExampleSpec": "mmalign.contract.specs",
    "Family": "mmalign.contract.specs",
    "ObjectiveSpec": "mmalign.contract.specs",
    "OptimizerSpec": "mmalign.contract.specs",
    "RewardSpec": "mmalign.contract.specs",
    "Rates": "mmalign.contract.rates",
    "Role": "mmalign.contract.specs",
    "SideStream": "mmalign.contract.specs",
    "TrackerSpec": "mmalign.contract.specs",
    "Capability": "mmalign.contract.capabilities",
    "Derived": "mmalign.contract.capabilities",
    "Objective": "mmalign.contract.objective",
    "Phase": "mmalign.contract.objective",
    "Batch": "mmalign.contract.batch",
    "Ragged": "mmalign.contract.batch",
    "MmalignError": "mmalign.errors",
}
__all__ = ["CONTRACT_VERSION", "__version__", *_LAZY]

if TYPE_CHECKING:  # the names of _LAZY, for type checkers
    from mmalign.contract.batch import Batch, Ragged
    from mmalign.contract.capabilities import Capability, Derived
    from mmalign.contract.hooks import hookimpl
    from mmalign.contract.objective import Objective, Phase
    from mmalign.contract.rates import Rates
    from mmalign.contract.specs import (
        SAMPLED_ANSWERS,
        BackboneSpec,
        CommandSpec,
        DatasetSpec,
        EngineSpec,
        EnvironmentSpec,
        EvaluationSpec,
        ExampleSpec,
        Family,
        ObjectiveSpec,
        OptimizerSpec,
        RewardSpec,
        Role,
        SideStream,
        TrackerSpec,
    )
    from mmalign.errors import MmalignError


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mmalign' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
