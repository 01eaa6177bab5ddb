"""vLLM as a sampling engine: `mmalign train --objective grpo --set rollout.engine=vllm`."""

from mmalign import EngineSpec, hookimpl


@hookimpl
def register_engines() -> list[EngineSpec]:
    return [
        EngineSpec(
            name="vllm",
            summary="vLLM on the GPU that trains, with the policy's weights of each step",
            target="mmalign_vllm.engine:Vllm",
            packages=("vllm",),
            config="mmalign_vllm.options:VllmConfig",
        )
    ]
