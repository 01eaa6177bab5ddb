"""What the tests of episodes share: a tiny model that ends its answers now and then, prompts, and environments."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign.hashing import stable_hash
from mmalign.language.sampling import Sampling, draw, uniforms
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.rl.environment import Turn
from mmalign.rl.episodes import Responder
from mmalign.testing import models


def load_policy(folder: Path, family: str = "tiny_llama", ends: float = 0.15) -> Any:
    """A tiny model that was taught to end its answer at any token with about the probability `ends`."""
    catalog = Catalog(load_plugins())
    source = find_source(str(vars(models)[family](folder / family)), catalog)
    backbone_class = catalog.load(source.entry)
    policy = backbone_class.load(source, backbone_class.Config())
    size = policy.module.get_output_embeddings().weight.shape[0]
    wanted = torch.full((size,), (1 - ends) / (size - 1))
    wanted[policy.processor.end_id] = ends
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        logits = policy.module(input_ids=torch.randint(1, size, (16, 24), generator=generator)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.expand(16 * 24, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def some_prompts(lengths: tuple[int, ...] = (3, 7, 1, 5, 7, 2), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 300, (length,), generator=generator) for length in lengths]


class Counting:
    """Says how long the last action was; `turns` of them, each paid its number."""

    def __init__(self, turns: int) -> None:
        self.turns, self.told = turns, list[str]()

    def step(self, action: str) -> Turn:
        self.told.append(action)
        done = len(self.told) >= self.turns
        return Turn("" if done else f" {len(action)} cat", float(len(self.told)), done, {"steps": 1})


def naive_episode(
    policy: Any, prompt: Tensor, environment: Responder, sampling: Sampling, seed: int, max_turns: int
) -> dict[str, list[Any]]:
    """One episode alone, one token at a time through the whole model, by the rules as they are written down."""
    ids: list[int] = []
    learn: list[bool] = []
    logps: list[float] = []
    rewards: list[tuple[int, float]] = []
    room = min(sampling.max_tokens, policy.processor.context_length - len(prompt))
    for turn in range(max_turns):
        turn_seed = seed if turn == 0 else stable_hash("turn", seed, turn)
        action = _written(policy, [*prompt.tolist(), *ids], sampling, turn_seed, room - len(ids), logps)
        ids += action
        learn += [True] * len(action)
        has_end = action[-1] == policy.processor.end_id
        text = policy.processor.tokenizer.decode(action[:-1] if has_end else action)
        reply = environment.step(text)
        rewards.append((sum(learn) - 1, reply.reward))
        heard = policy.processor.tokenizer(reply.observation, add_special_tokens=False)["input_ids"]
        if reply.done or not has_end or turn == max_turns - 1 or len(ids) + len(heard) >= room:
            break
        ids += heard
        learn += [False] * len(heard)
    return {"ids": ids, "learn": learn, "logps": logps, "turn_rewards": rewards, "ended": [has_end or reply.done]}


def _written(policy: Any, read: list[int], sampling: Sampling, seed: int, room: int, logps: list[float]) -> list[int]:
    action: list[int] = []
    while len(action) < room and (not action or action[-1] != policy.processor.end_id):
        with torch.no_grad():
            logits = policy.module(input_ids=torch.tensor([read + action])).logits[:, -1]
        token, logp = draw(logits, sampling, uniforms([seed], len(action)))
        action.append(int(token[0]))
        logps.append(float(logp[0]))
    return action
