"""The engine `vllm`: opened once from the starting policy, then given its weights before each batch.

It lives in the training process (vLLM's own worker process is off), so weights are handed over in memory.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from pydantic import BaseModel
from torch import Tensor

from mmalign.contract.backbone import Backbone
from mmalign.errors import UsageError
from mmalign.language.sampling import Generated, Sampling
from mmalign.models.lora import merged_state
from mmalign.rl.episodes import Policy
from mmalign_vllm.mapping import answers, engine_arguments, sampling_arguments
from mmalign_vllm.options import VllmConfig


class Vllm:
    """Colocated with training on one GPU."""

    Config: ClassVar[type[BaseModel]] = VllmConfig

    def __init__(self, config: VllmConfig) -> None:
        self.config = config
        self._llm: Any = None
        self._sleeps = False

    def open(self, policy: Policy) -> None:
        """Load vLLM with the policy as it stands; raises UsageError off CUDA and in several processes."""
        backbone = cast(Backbone, policy)  # every policy is one
        if next(backbone.module.parameters()).device.type != "cuda":
            raise UsageError(
                "engine vllm needs a CUDA GPU", hint="Without it the policy draws: leave rollout.engine out."
            )
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UsageError("engine vllm runs in one process", hint="Without torchrun, or without rollout.engine.")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # read when vllm is imported
        from vllm import LLM

        with tempfile.TemporaryDirectory(prefix="mmalign-vllm-") as folder:
            backbone.save(Path(folder))
            self._llm = LLM(**engine_arguments(self.config, folder, policy.processor.context_length))
        self.rest()

    def refresh(self, policy: Policy) -> None:
        """Wake up, take the weights, and forget the cache of prompts that older ones read."""
        if self._sleeps:
            self._llm.wake_up()
            self._sleeps = False
        weights = list(merged_state(cast(Backbone, policy).module).items())

        def load(model: Any) -> None:
            model.load_weights(weights)

        self._llm.apply_model(load)
        self._llm.reset_prefix_cache()

    def generate(
        self, policy: Policy, prompts: Sequence[Tensor], sampling: Sampling, seeds: Sequence[int]
    ) -> Generated:
        from vllm import SamplingParams

        ends = policy.processor.end_ids
        found = self._llm.generate(
            [{"prompt_token_ids": prompt.tolist()} for prompt in prompts],
            sampling_params=[SamplingParams(**sampling_arguments(sampling, seed, ends)) for seed in seeds],
            use_tqdm=False,
        )
        firsts = [request.outputs[0] for request in found]
        return answers([(first.token_ids, first.logprobs) for first in firsts], ends)

    def rest(self) -> None:
        """Level 1: weights wait on the CPU, the cache is dropped."""
        if self.config.sleep and self._llm is not None and not self._sleeps:
            self._llm.sleep(level=1)
            self._sleeps = True
