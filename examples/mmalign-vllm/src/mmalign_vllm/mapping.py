"""What goes into vLLM and what comes out, as plain data: nothing here imports it.

LLM(**engine_arguments(config, folder, context_length))
SamplingParams(**sampling_arguments(sampling, seed, end_ids))
answers([(output.token_ids, output.logprobs), ...], end_ids)
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch

from mmalign.errors import EngineError
from mmalign.language.sampling import Generated, Sampling
from mmalign_vllm.options import VllmConfig


class Logprob(Protocol):
    """vLLM's, of one token at one place."""

    logprob: float


def engine_arguments(config: VllmConfig, folder: str, context_length: int) -> dict[str, Any]:
    """Of `vllm.LLM`. folder: of the starting policy, as transformers loads it; it is read without code of its own."""
    return {
        "model": folder,
        "skip_tokenizer_init": True,  # ids in, ids out
        "dtype": config.dtype,
        "max_model_len": context_length,
        "gpu_memory_utilization": config.memory,
        "enable_sleep_mode": config.sleep,
        "enforce_eager": config.eager,
        "generation_config": "vllm",  # the model's own defaults, such as top-k, are not ours
        "logprobs_mode": "processed_logprobs",  # those drawn by: with temperature and top-p
        "trust_remote_code": False,
    }


def sampling_arguments(sampling: Sampling, seed: int, end_ids: Collection[int]) -> dict[str, Any]:
    """Of `vllm.SamplingParams`, for one row."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,  # among all
        "seed": seed % 2**63,
        "stop_token_ids": sorted(end_ids),
        "ignore_eos": True,  # the processor's end tokens end, and no other
        "logprobs": 0,  # of the drawn token alone
        "detokenize": False,
    }


def answers(
    outputs: Iterable[tuple[Sequence[int], Sequence[Mapping[int, Logprob]] | None]], end_ids: Collection[int]
) -> Generated:
    """outputs: of each row the ids drawn and, at each place, log-probabilities by id. Raises EngineError."""
    ids, logps = [], []
    for row, (tokens, places) in enumerate(outputs):
        if places is None or len(places) != len(tokens):
            raise EngineError(
                f"vllm gave {len(places or ())} log-probabilities for the {len(tokens)} tokens of row {row}",
                hint="Is it vllm>=0.14.1? python -m pip install -U vllm",
            )
        ids.append(torch.tensor(list(tokens), dtype=torch.int64))
        logps.append(torch.tensor([at[token].logprob for token, at in zip(tokens, places, strict=True)]))
    return Generated(ids, logps, [len(row) > 0 and int(row[-1]) in end_ids for row in ids])
