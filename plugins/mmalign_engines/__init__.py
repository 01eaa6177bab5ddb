"""The built-in sampling engines: the policy itself, and continuous batching."""

from mmalign import EngineSpec, hookimpl


@hookimpl
def register_engines() -> list[EngineSpec]:
    return [
        EngineSpec(
            name="policy",
            summary="The policy's own generation, reproducible by the seed: the default",
            target="mmalign.rl.engines:OwnGeneration",
            exact=True,
            reproducible=True,
        ),
        EngineSpec(
            name="continuous-batching",
            summary="Continuous batching of transformers over a paged cache, for long answers of very unequal length",
            target="mmalign_engines.continuous_batching:ContinuousBatching",
            packages=("transformers",),
            config="mmalign_engines.options:ContinuousBatchingConfig",
            reproducible=True,
        ),
    ]
