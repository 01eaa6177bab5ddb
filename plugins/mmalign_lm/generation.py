"""Answers token by token with a cache of keys and values; rows that have ended leave the batch. A family without such a
cache (GPT-1) reads each row again for every token.

    generated = generate(module, prompts, Sampling(max_tokens=64), seeds=[0, 1], end_id=2)

Prompts are padded on the left, and positions count from the first real token.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmalign.sampling import Generated, Sampling, draw, uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def generate(
    module: "PreTrainedModel",
    prompts: Sequence[Tensor],
    sampling: Sampling,
    seeds: Sequence[int],
    end_id: int,
    on_token: Callable[[int, int], None] | None = None,
) -> Generated:
    """prompts: N rows of ids, none empty; seeds: one a row. `on_token(row, id)` sees every token as it is drawn."""
    from transformers import DynamicCache

    device = next(module.parameters()).device
    ids, logps = [[] for _ in prompts], [[] for _ in prompts]
    ended = [False] * len(prompts)
    if not prompts:
        return Generated([], [], [])
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), width, dtype=torch.int64, device=device)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = prompt.to(device)
        mask[row, width - len(prompt) :] = 1
    takes = inspect.signature(module.forward).parameters
    takes_positions, takes_cache = "position_ids" in takes, "past_key_values" in takes
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache: Any = DynamicCache() if takes_cache else None
    rows = list(range(len(prompts)))  # which prompt each line of the batch is
    for step in range(sampling.max_tokens):
        extra: dict[str, Any] = {"position_ids": positions} if takes_positions else {}
        if takes_cache:
            extra |= {"past_key_values": cache, "use_cache": True}
        out = module(input_ids=tokens, attention_mask=mask, **extra)
        cache = out.past_key_values if takes_cache else None
        drawn, logp = draw(out.logits[:, -1], sampling, uniforms([seeds[row] for row in rows], step))
        for line, row in enumerate(rows):
            ids[row].append(int(drawn[line]))
            logps[row].append(float(logp[line]))
            ended[row] = ids[row][-1] == end_id
            if on_token is not None:
                on_token(row, ids[row][-1])
        alive = [line for line, row in enumerate(rows) if not ended[row]]
        if not alive:
            break
        new, following = drawn[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(new)], 1)
        if not takes_cache:
            new, following = torch.cat([tokens, new], 1), torch.cat([positions, following], 1)
        tokens, positions = new, following
        if len(alive) < len(rows):
            keep = torch.tensor(alive, device=device)
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            if cache is not None:
                cache.batch_select_indices(keep)
            rows = [rows[line] for line in alive]
    return Generated([torch.tensor(row) for row in ids], [torch.tensor(row) for row in logps], ended)
