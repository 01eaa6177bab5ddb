"""The roles of a run: each one's model, the role whose weights it uses, and its own memory.

    for figures in role_figures(models):
        print(figures.line())       # "critic: an adapter on the weights of policy, 9,216 parameters, all train; ..."

Shared weights are counted once, with the role that owns them.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from mmalign.train.optim import state_bytes
from mmalign.train.roles import Models
from mmalign.train.shared_trunk import TrunkScorer, WithAdapter, has_fresh_adapter


@dataclass(frozen=True)
class RoleFigures:
    """parameters, bytes: the role's own, its head included. shares: the role whose weights it uses, or ""; how: the
    kind of model in words."""

    role: str
    trains: bool
    how: str
    shares: str
    parameters: int
    trainable: int
    weights_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    def line(self) -> str:
        if not self.parameters:
            return f"{self.role}: {self.how}; nothing of its own"
        share = f"{self.trainable:,} of them train" if self.trainable < self.parameters else "all train"
        memory = f"weights {in_megabytes(self.weights_bytes)}"
        if self.trainable:
            learning = (in_megabytes(self.gradient_bytes), in_megabytes(self.optimizer_bytes))
            memory += ", gradients {}, optimiser {}".format(*learning)
        share = share if self.trainable else "frozen"
        return f"{self.role}: {self.how}, {self.parameters:,} parameters, {share}; {memory}"


def role_figures(models: Models, optimizer: Optimizer | None = None) -> list[RoleFigures]:
    """Figures of each role, owners of weights first. optimizer: after a step, when it has state; None: not counted."""
    owned: dict[str, dict[int, Tensor]] = {}
    owners = models.owners()
    for role, module in [(role, backbone.module) for role, backbone in models.items()] + list(models.heads.items()):
        for tensor in module.state_dict(keep_vars=True).values():  # tied ones are the same object
            owned.setdefault(owners.get(id(tensor), role), {})[id(tensor)] = tensor
    own = [role for role, _ in models.items()]
    others = [role for role in (*models.shared, *models.answers_for()) if role not in own]
    return [_figures(models, role, list(owned.get(role, {}).values()), optimizer) for role in (*own, *others)]


def _figures(models: Models, role: str, tensors: list[Tensor], optimizer: Optimizer | None) -> RoleFigures:
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    how, shares = _relation(models, role)
    learning = sum(tensor.nbytes for tensor in trained)
    return RoleFigures(
        role=role,
        trains=models.trains(role),
        how=how,
        shares=shares,
        parameters=sum(tensor.numel() for tensor in tensors),
        trainable=sum(tensor.numel() for tensor in trained),
        weights_bytes=sum(tensor.nbytes for tensor in tensors),
        gradient_bytes=learning,
        optimizer_bytes=state_bytes(optimizer, trained) if optimizer else 0,
    )


def _relation(models: Models, role: str) -> tuple[str, str]:
    """(the kind of model in words, the role whose weights it uses)."""
    roles = dict(models.items())
    if role in roles:
        if next(iter(roles)) == role:
            return ("a model with an adapter" if has_fresh_adapter(roles[role]) else "a model"), ""
        frozen = "a frozen model of its own" if role in models.loaded else "a frozen copy"
        return ("a model of its own" if models.trains(role) else frozen), ""
    if role in models.answers_for():
        owner = models.answers_for()[role]
        if has_fresh_adapter(roles[owner]):
            return f"{owner} with its adapter off", owner
        return f"{owner}, used only before the first step", owner
    view = models.shared[role]
    view = view.backbone if isinstance(view, TrunkScorer) else view
    trunk = view.backbone if isinstance(view, WithAdapter) else view
    owner = next(name for name, backbone in roles.items() if backbone is trunk)
    return ("a head on the pass of " if trunk is view else "an adapter on the weights of ") + owner, owner


def in_megabytes(count: int) -> str:
    """ "0.3 MB", "512 MB"."""
    return f"{count / 1e6:,.1f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"
