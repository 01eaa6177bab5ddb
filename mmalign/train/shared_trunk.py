"""Several roles on one trunk: a critic as a head, an adapter or a model of its own, and a reward model as an adapter.

critic = build_critic("critic", policy, CriticOptions(kind="adapter", source="runs/reward/model"))
critic.backbone.hidden_states(sequences); critic.head      # one set of weights, the critic's adapter
scorer = reward_on_trunk(policy, Path("runs/reward/model"), "reward")
scorer.score_sequences(sequences)                          # [M], as the reward model alone
checkpoint_activations(models.trained_modules())           # train.gradient_checkpointing
"""

import copy
import functools
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.contract.backbone import SwitchesAdapter
from mmalign.contract.roles import CriticOptions
from mmalign.errors import CheckpointError, UsageError
from mmalign.models.adapter_switch import follow_checkpointing, selected
from mmalign.models.lora import add_adapter
from mmalign.models.reward_trunk import ReadScorer, ReadsScorers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmalign.language.sequences import Sequences


class WithAdapter:
    """A backbone whose methods run with only one of its adapters, or with none (None)."""

    def __init__(self, backbone: Any, adapter: str | None) -> None:
        self.backbone, self.adapter = backbone, adapter

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.backbone, name)
        if not inspect.ismethod(value):
            return value

        @functools.wraps(value)
        def call(*arguments: Any, **options: Any) -> Any:
            with selected(self.backbone.module, self.adapter):
                return value(*arguments, **options)

        return call


@dataclass(frozen=True)
class Critic:
    """backbone: the policy itself (head), a `WithAdapter` of it (adapter), or another model (copy). note: why the first
    choice was impossible."""

    kind: str
    backbone: Any
    head: "nn.Linear"
    note: str = ""


@dataclass(frozen=True)
class TrunkScorer:
    """A reward model whose trunk is the policy's weights with a frozen adapter."""

    backbone: WithAdapter
    head: "nn.Linear"
    mean: float

    def score_sequences(self, sequences: "Sequences") -> "Tensor":
        """[M], minus the mean; the same as the reward model alone gives."""
        from mmalign.language.derive import last_token_scores

        return last_token_scores(self.head, self.backbone.hidden_states(sequences))[:, 0] - self.mean


def has_fresh_adapter(backbone: Any) -> bool:
    return isinstance(backbone, SwitchesAdapter) and backbone.adapter_is_fresh


def build_critic(name: str, policy: Any, options: CriticOptions) -> Critic:
    """Build a role's critic; an adapter is added to the policy's module. Raises UsageError or CheckpointError."""
    kind, note = options.kind, ""
    if kind == "auto":
        kind = "adapter" if has_fresh_adapter(policy) else "copy" if options.source else "head"
        if kind == "adapter" and options.source:
            try:
                return _adapter(name, policy, options)
            except CheckpointError as error:  # a model of its own gives the same values
                kind, note = "copy", error.message
    if kind == "adapter":
        return _adapter(name, policy, options)
    if kind == "copy":
        return _copy(policy, options, note)
    for option, meant in (("source", options.source), ("learning_rate", options.learning_rate)):
        if meant:
            raise UsageError(
                f"a critic that is a head on the policy's trunk has no {option} of its own",
                hint="Try --set objective.critic.kind=copy; or adapter, with --set backbone.lora.rank=16.",
            )
    return Critic("head", policy, value_head(policy.hidden_width))


def _adapter(name: str, policy: Any, options: CriticOptions) -> Critic:
    if not has_fresh_adapter(policy):
        raise UsageError(
            "a critic that is an adapter needs frozen weights, but all weights of the policy train",
            hint="Add --set backbone.lora.rank=16, or use --set objective.critic.kind=copy.",
        )
    if options.source:
        scorer = _reader(policy).scorer_adapter(Path(options.source), name, trains=True)
        return Critic("adapter", WithAdapter(policy, name), value_head(policy.hidden_width, scorer))
    add_adapter(policy.module, name)
    return Critic("adapter", WithAdapter(policy, name), value_head(policy.hidden_width))


def _copy(policy: Any, options: CriticOptions, note: str) -> Critic:
    if not options.source:
        return Critic("copy", copy.deepcopy(policy), value_head(policy.hidden_width))
    scorer = _reader(policy).scorer_copy(Path(options.source))
    return Critic("copy", scorer.backbone, value_head(scorer.backbone.hidden_width, scorer), note)


def _reader(policy: Any) -> ReadsScorers:
    if not isinstance(policy, ReadsScorers):
        raise UsageError(
            f"{type(policy).__name__} cannot start a critic from a reward model", hint="Leave critic.source empty."
        )
    return policy


def value_head(width: int, scorer: ReadScorer | None = None) -> "nn.Linear":
    """[.., width] -> [.., 1], zero at first; or with the scores of a reward model, minus their mean."""
    import torch
    from torch import nn

    head = nn.Linear(width, 1)
    with torch.no_grad():
        head.weight.zero_() if scorer is None else head.weight.copy_(scorer.head.weight)
        head.bias.fill_(0.0 if scorer is None else -scorer.mean)
    return head


def reward_on_trunk(policy: Any, folder: Path, name: str) -> TrunkScorer:
    """Add a saved reward model to the policy's trunk as a frozen adapter; raises CheckpointError if it cannot share it.

    Call `Models.add_scorer`, which also registers the result.
    """
    if not has_fresh_adapter(policy) or not isinstance(policy, ReadsScorers):
        raise CheckpointError(
            f"{folder} cannot share the policy's weights: all of them train, or the policy cannot load reward models",
            hint="With --set backbone.lora.rank=16, a reward model trained with an adapter shares them.",
        )
    scorer = policy.scorer_adapter(folder, name, trains=False)
    device = next(scorer.backbone.module.parameters()).device
    return TrunkScorer(WithAdapter(policy, name), scorer.head.to(device).requires_grad_(False), scorer.mean)


def checkpoint_activations(modules: "Mapping[str, nn.Module]") -> None:
    """Make layers keep only their inputs and recompute the rest in the backward pass, with the same adapter.

    modules: by role; heads are skipped. Raises UsageError for a module that does not support it.
    """
    from torch import nn
    from transformers import PreTrainedModel

    for role, module in modules.items():
        if isinstance(module, nn.Linear):
            continue
        if not (isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing):
            raise UsageError(
                f"train.gradient_checkpointing: {type(module).__name__} ({role}) does not support it",
                hint="It is for models of transformers. A smaller train.micro_batch_size saves memory too.",
            )
        with warnings.catch_warnings():  # renamed in transformers 5.23; earlier versions know only this name
            warnings.simplefilter("ignore", FutureWarning)
            module.gradient_checkpointing_enable({"use_reentrant": False})
        follow_checkpointing(module)
