"""The roles of an objective as models: who trains, who is frozen.

models = Models({"policy": backbone}, trains={"policy"})
models["policy"].encode_image(...)
models.trainable()                     # [("policy.visual.conv1.weight", parameter), ...]
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor, nn

from mmalign.contract.backbone import SharesWork
from mmalign.contract.specs import Role
from mmalign.language.protocols import ScoresPairs
from mmalign.models.adapter_switch import adapted_layers
from mmalign.models.lora import adapter_parameters
from mmalign.train.shared_trunk import (
    CriticOptions,
    TrunkScorer,
    WithAdapter,
    build_critic,
    has_fresh_adapter,
    reward_on_trunk,
)

_Kind = TypeVar("_Kind")
_BATCHNORM = (nn.modules.batchnorm._BatchNorm,)


class Models:
    """Backbones by role. Frozen roles have no gradients and stay in evaluation mode.

    heads: role -> a linear head on its hidden states, trained and saved with it. stand_ins: frozen role -> the trained
    role used in its place. A fresh adapter is switched off for it; otherwise the stand-in is valid only until
    `end_stand_ins()`. classes: the data set's class names, for heads with a row per class. shared: role -> a model on
    another role's weights, with its own adapter or none. peaks: role -> its own peak learning rate. notes: sentences
    for the user on how roles were built. loaded: roles with a source of their own.
    """

    def __init__(
        self,
        roles: Mapping[str, Any],
        trains: Set[str],
        heads: Mapping[str, nn.Linear] | None = None,
        stand_ins: Mapping[str, str] | None = None,
        classes: tuple[str, ...] = (),
        shared: Mapping[str, Any] | None = None,
        peaks: Mapping[str, float] | None = None,
        notes: tuple[str, ...] = (),
        loaded: Set[str] = frozenset(),
    ) -> None:
        self._roles = dict(roles)
        self._trains = frozenset(trains)
        self._stand_ins = dict(stand_ins or {})
        self.heads = dict(heads or {})
        self.classes = classes
        self.shared = dict(shared or {})
        self.peaks = dict(peaks or {})
        self.notes, self.loaded = notes, frozenset(loaded)
        for name, backbone in self._roles.items():
            if name not in self._trains:
                backbone.module.requires_grad_(False).eval()

    def __getitem__(self, name: str) -> Any:
        """The model of a role; raises KeyError."""
        if name in self.shared:
            return self.shared[name]
        if name in self._stand_ins:
            trained = self._roles[self._stand_ins[name]]
            return WithAdapter(trained, None) if has_fresh_adapter(trained) else trained
        if name not in self._roles:
            raise KeyError(f"no role {name!r} in {sorted(self._roles)}")
        return self._roles[name]

    def role(self, name: str, kind: type[_Kind]) -> _Kind:
        return self[name]

    def head(self, name: str) -> nn.Linear:
        return self.heads[name]

    def end_stand_ins(self) -> None:
        """Stop using trained roles as stand-ins, and drop the models of frozen roles."""
        self._stand_ins.clear()
        self._roles = {name: backbone for name, backbone in self._roles.items() if name in self._trains}

    def add_scorer(self, folder: Path, name: str = "reward") -> TrunkScorer:
        """Load a reward model as a frozen adapter on the policy's weights, under the role `name`.

        Raises CheckpointError, with the reason, if it cannot share them.
        """
        scorer = reward_on_trunk(self["policy"], folder, name)
        self.shared[name], self.heads[name] = scorer, scorer.head
        return scorer

    @property
    def trunk(self) -> "PolicyWeights":
        """The policy's trunk, for rewards that can share it."""
        return PolicyWeights(self)

    def shared_work(self) -> list[SharesWork]:
        """Trained models that collect a gradient over the micro-batches of an update."""
        trained = (model for name, model in self._roles.items() if name in self._trains)
        return [model for model in trained if isinstance(model, SharesWork)]

    def trains(self, role: str) -> bool:
        return role in self._trains

    def answers_for(self) -> Mapping[str, str]:
        """Frozen role -> the trained role used in its place."""
        return self._stand_ins

    def owners(self) -> dict[int, str]:
        """Id of a parameter -> the role whose adapter it belongs to, for adapters on another role's weights."""
        owners = {}
        for role, view in self.shared.items():
            view = view.backbone if isinstance(view, TrunkScorer) else view
            if isinstance(view, WithAdapter) and view.adapter:
                owners |= {id(parameter): role for parameter in adapter_parameters(view.module, view.adapter)}
        return owners

    def items(self) -> Iterable[tuple[str, Any]]:
        return self._roles.items()

    def modules(self) -> Iterator[nn.Module]:
        return iter([*(backbone.module for backbone in self._roles.values()), *self.heads.values()])

    def trained_modules(self) -> dict[str, nn.Module]:
        """By role; a role's head is "<role>_head"."""
        modules = {name: backbone.module for name, backbone in self._roles.items() if name in self._trains}
        return modules | {f"{role}_head": head for role, head in self.heads.items() if role in self._trains}

    @property
    def passes(self) -> int:
        """Trunk passes when every trained role reads a batch; a head on another role's trunk adds none."""
        return len({id(self[role]) for role in self._trains})

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters to optimise; a name starts with the role that owns the parameter."""
        owners = self.owners()
        return [
            (f"{owners.get(id(parameter), role)}.{name}", parameter)
            for role, module in self.trained_modules().items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers of the trained roles, by name; tied tensors once.

        With an adapter, frozen weights are left out: a resumed run reads them from the source again. Another role's
        adapter is named after the module that holds it; frozen adapters are left out.
        """
        state, seen = {}, {}
        for role, module in self.trained_modules().items():
            own = {n for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
            own |= {n for n, _ in module.named_buffers(remove_duplicate=False)}
            adapted = bool(adapted_layers(module))
            for name, tensor in module.state_dict(keep_vars=False).items():
                if adapted and name not in own:
                    continue
                if tensor.numel() and tensor.data_ptr() in seen and seen[tensor.data_ptr()] == tensor.shape:
                    continue
                seen[tensor.data_ptr()] = tensor.shape
                state[f"{role}.{name}"] = tensor
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors in place; raises KeyError for one that is missing."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def buffers(self) -> list[Tensor]:
        """Buffers that a forward pass in training mode may change, mostly running statistics."""
        return [buffer for module in self.trained_modules().values() for buffer in module.buffers()]

    def train(self, *, freeze_batchnorm: bool) -> int:
        """Training mode for the trained roles. Returns how many BatchNorm layers keep their running statistics."""
        frozen = 0
        for module in self.trained_modules().values():
            module.train()
            for layer in module.modules():
                if isinstance(layer, _BATCHNORM):
                    # A layer without trainable parameters belongs to a locked tower: its statistics are locked too.
                    locked = not any(parameter.requires_grad for parameter in layer.parameters())
                    if freeze_batchnorm or locked:
                        layer.eval()
                        frozen += 1
        return frozen

    def eval(self) -> None:
        for module in self.modules():
            module.eval()

    def to(self, device: Any) -> None:
        for module in self.modules():
            module.to(device)


class PolicyWeights:
    """The `mmalign.rl.reward.PolicyTrunk` of these models."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self.lends = has_fresh_adapter(models["policy"])
        self.processor = models["policy"].processor

    def add_scorer(self, folder: Path, name: str) -> TrunkScorer:
        return self._models.add_scorer(folder, name)


def build_models(
    roles: tuple[Role, ...],
    policy: Any,
    *,
    copies: bool = True,
    classes: tuple[str, ...] = (),
    critic: CriticOptions | None = None,
    loaded: Mapping[str, Any] = MappingProxyType({}),
) -> Models:
    """Give `policy` to the first trained role, and a copy of it to every other role.

    The first trained role stands in for frozen ones if its adapter is fresh, or without `copies`. classes: the data
    set's class names, for heads with a row per class. critic: how to build a role with a value head. loaded: role -> a
    model from its own source instead of a copy.
    """
    trained, copies = [role for role in roles if role.trains], copies and not has_fresh_adapter(policy)
    views = {role.name: role.source for role in roles if role.source in {r.name for r in roles} and not role.head}
    plain = [role for role in roles if role.head != "value" and role.name not in views]
    built = {
        role.name: policy if role is trained[0] else loaded.get(role.name) or copy.deepcopy(policy)
        for role in plain
        if role.trains or copies or role.name in loaded
    }
    stand_ins = {role.name: trained[0].name for role in plain if role.name not in built}
    rows = {"scalar": 1, "classes": len(classes)}
    headed = [role for role in plain if role.head and not (role.head == "scalar" and isinstance(policy, ScoresPairs))]
    heads = {role.name: linear_head(policy.hidden_width, rows[role.head]) for role in headed}
    shared: dict[str, Any] = {name: built[source] for name, source in views.items()}
    peaks, notes = {}, []
    options = critic or CriticOptions()
    for role in roles:
        if role.head == "value":
            made = build_critic(role.name, policy, options)
            (built if made.kind == "copy" else shared)[role.name] = made.backbone
            heads[role.name] = made.head
            peaks |= {role.name: options.learning_rate} if options.learning_rate else {}
            notes += [f"{role.name}: a model of its own, because {made.note}"] if made.note else []
    return Models(
        built, {role.name for role in trained}, heads, stand_ins, classes, shared, peaks, tuple(notes), set(loaded)
    )


def linear_head(width: int, rows: int) -> nn.Linear:
    """[.., width] -> [.., rows] without bias, weights of standard deviation 1 / sqrt(width + 1) (Stiennon 2020)."""
    head = nn.Linear(width, rows, bias=False)
    nn.init.normal_(head.weight, std=(width + 1) ** -0.5)
    return head
