"""What the tests of several roles on one trunk share: the roles of PPO, their losses, and gradients by parameter."""

from pathlib import Path
from typing import Any

import torch

from mmalign.contract.roles import CriticOptions
from mmalign.contract.specs import Role
from mmalign.language.derive import sequence_logps, token_values
from mmalign.train.roles import Models, build_models
from tests.support.lm_samples import some_sequences

ROLES = (
    Role(name="policy", needs=("token_logps",)),
    Role(name="critic", needs=("value",), head="value"),
    Role(name="reference", needs=("sequence_logp",), trains=False),
)
IDS = torch.arange(5, 25)[None]
LORA = {"rank": 4}
MEAN = 0.75


def moved(models: Models) -> Models:
    """As after training: every trained parameter is another."""
    torch.manual_seed(3)
    with torch.no_grad():
        for _, parameter in models.trainable():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return models


def build(load_lm: Any, folder: Path, kind: str, lora: bool = True, **options: Any) -> Models:
    policy = load_lm(folder, **({"lora": LORA} if lora else {}))
    return build_models(ROLES, policy, critic=CriticOptions(kind=kind, **options))


def losses(models: Models) -> tuple[torch.Tensor, torch.Tensor]:
    """(of the policy, of the critic), each of its own pass."""
    sequences = some_sequences()
    policy = -sequence_logps(models["policy"], sequences).mean()
    values = token_values(models.head("critic"), models["critic"].hidden_states(sequences))
    return policy, (values - 1).square().mean()


def gradients(models: Models, *parts: int) -> dict[str, torch.Tensor]:
    """Of the sum of these losses, by parameter."""
    for module in models.modules():
        module.zero_grad(set_to_none=True)
    both = losses(models)
    torch.stack([both[part] for part in parts]).sum().backward()
    found = {name: parameter.grad for name, parameter in models.trainable()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}
