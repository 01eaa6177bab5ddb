from mmalign import OptimizerSpec, hookimpl


@hookimpl
def register_optimizers() -> list[OptimizerSpec]:
    return [
        OptimizerSpec(
            name="momentum8",
            summary="Signs of a momentum that is kept in 8 bits",
            target="mmalign_momentum8.momentum8:Momentum8",
            rate=0.3,
            state_bytes=0.27,
        )
    ]
