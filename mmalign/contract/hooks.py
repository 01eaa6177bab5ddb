"""All hooks that a plugin can implement. Hooks return specs; nothing registers by callback.

    from mmalign import hookimpl, ObjectiveSpec

    @hookimpl
    def register_objectives():
        return [ObjectiveSpec(...)]

The plugin's entry point, in its pyproject.toml:  [project.entry-points.mmalign]  my-plugin = "my_pkg"
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mmalign.contract.run import Run
    from mmalign.contract.specs import (
        BackboneSpec,
        CommandSpec,
        DatasetSpec,
        EngineSpec,
        EnvironmentSpec,
        EvaluationSpec,
        ExampleSpec,
        ObjectiveSpec,
        OptimizerSpec,
        RewardSpec,
        TrackerSpec,
    )

hookspec = pluggy.HookspecMarker("mmalign")
hookimpl = pluggy.HookimplMarker("mmalign")


@hookspec
def register_backbones() -> "Iterable[BackboneSpec]":
    """Model families."""
    return ()


@hookspec
def register_objectives() -> "Iterable[ObjectiveSpec]":
    """Training objectives."""
    return ()


@hookspec
def register_datasets() -> "Iterable[DatasetSpec]":
    """Sources of examples."""
    return ()


@hookspec
def register_examples() -> "Iterable[ExampleSpec]":
    """Kinds of example."""
    return ()


@hookspec
def register_rewards() -> "Iterable[RewardSpec]":
    """Scorers of outputs."""
    return ()


@hookspec
def register_environments() -> "Iterable[EnvironmentSpec]":
    """Environments that answer actions."""
    return ()


@hookspec
def register_engines() -> "Iterable[EngineSpec]":
    """Sampling engines, which replace the policy's own `generate`."""
    return ()


@hookspec
def register_evaluations() -> "Iterable[EvaluationSpec]":
    """Held-out measurements."""
    return ()


@hookspec
def register_optimizers() -> "Iterable[OptimizerSpec]":
    """Optimisers."""
    return ()


@hookspec
def register_trackers() -> "Iterable[TrackerSpec]":
    """Observers that get every record of a run."""
    return ()


@hookspec
def register_commands() -> "Iterable[CommandSpec]":
    """Commands of the `mmalign` program."""
    return ()


@hookspec
def run_started(run: "Run") -> None:
    """A run begins (main process only). An exception in this hook or in `run_finished` only causes a warning."""


@hookspec
def run_finished(run: "Run", error: BaseException | None) -> None:
    """The run ended. error: the error that ended it, or None."""
