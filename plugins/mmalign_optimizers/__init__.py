"""Optimisers."""

from mmalign import OptimizerSpec, hookimpl


@hookimpl
def register_optimizers() -> list[OptimizerSpec]:
    return [
        OptimizerSpec(
            name="adamw",
            summary="Adam with decoupled weight decay",
            target="mmalign_optimizers.adamw:AdamW",
        ),
    ]
