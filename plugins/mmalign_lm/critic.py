"""Loads a saved reward model beside a policy: as a trunk and head of its own, or as an adapter on the policy's trunk.

    scorer = read_scorer_copy(module, tokenizer, folder, layout)          # .backbone.hidden_states(sequences), .head
    head, mean = read_scorer_adapter(module, tokenizer, folder, "critic", trains=True)

Both read the policy's tokens, so the tokenizers must agree. An adapter is accepted only if the reward model's saved
weights are the policy's own plus that adapter. This is compared tensor by tensor, with one saved tensor in memory at a
time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmalign.errors import CheckpointError
from mmalign.language.layout import Layout
from mmalign.language.protocols import Hidden
from mmalign.language.sequences import Sequences
from mmalign.models.adapter_switch import adapted_layers
from mmalign.models.adapters import attach
from mmalign.models.folder import check_weights, is_adapter, offline, read_json, refuse_code, unreadable
from mmalign.models.lora import ADAPTER_FOLDER, remove_adapter
from mmalign.models.references import TRANSFORMERS_CONFIG, no_model_in
from mmalign.models.reward_trunk import ReadScorer
from mmalign_lm.families import REWARD_MEAN, is_reward_model
from mmalign_lm.folder import read_config, read_tokenizer
from mmalign_lm.rows import try_unpacked
from mmalign_lm.scorer import HEAD_FILE, load_scorer, parts_of
from mmalign_lm.texts import TextProcessor
from mmalign_lm.trunk import Trunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_INSTEAD = "Or load it as a separate model: --set objective.critic.kind=copy."
_ROUNDING = 1e-5  # relative: the adapter may have been added on another device


class Critic:
    """A separate trunk without a language-modelling head. Its rows are laid out as the policy's where possible."""

    def __init__(self, module: nn.Module, width: int, layout: Callable[[Sequences], Layout]) -> None:
        self.module = module
        self.hidden_width = width
        self._trunk = Trunk(module, width)
        self._layout = layout

    def hidden_states(self, sequences: Sequences) -> Hidden:
        """One pass; labels are in the policy's order."""
        layout = self._layout(sequences)
        return Hidden(self._trunk(layout), layout)


def read_scorer_copy(
    policy: "PreTrainedModel", processor: TextProcessor, folder: Path, layout: Callable[[Sequences], Layout]
) -> ReadScorer:
    """Trunk and head as they were saved, on the CPU; raises CheckpointError. layout: the policy's, used for a trunk of
    the same family."""
    stated = _read_stated(processor.tokenizer, folder)
    with offline():
        config = read_config(folder, 0.0)
    trunk, head = parts_of(load_scorer(folder, config).eval())
    if config.model_type != policy.config.model_type:
        embeddings: Any = policy.get_input_embeddings()
        layout = try_unpacked(Trunk(trunk, head.in_features), config, len(embeddings.weight), processor).layout
    return ReadScorer(Critic(trunk, head.in_features, layout), head, _mean(stated))


def read_scorer_adapter(
    policy: "PreTrainedModel", tokenizer: Any, folder: Path, name: str, *, trains: bool
) -> tuple[nn.Linear, float]:
    """Put the reward model's adapter on the policy's trunk. Returns its head and its mean. Raises CheckpointError."""
    stated = _read_stated(tokenizer, folder)
    adapter = folder / ADAPTER_FOLDER
    if not is_adapter(adapter):
        raise CheckpointError(f"{folder} was not trained with an adapter: it has no {ADAPTER_FOLDER}/", hint=_INSTEAD)
    check_weights(folder)
    head = _read_head(policy, folder)
    attach(policy, adapter, name, trains=trains)
    try:
        _check_base(policy, folder, name)
    except CheckpointError:
        remove_adapter(policy, name)
        raise
    return head, _mean(stated)


def _read_stated(tokenizer: Any, folder: Path) -> dict[str, Any]:
    """The config of a reward model that reads the policy's tokens; raises CheckpointError."""
    path = folder / TRANSFORMERS_CONFIG
    if not path.is_file():
        raise no_model_in(folder)
    stated = read_json(path)
    refuse_code(stated, path)
    if not is_reward_model(stated):
        raise CheckpointError(f"{folder} holds no reward model", hint="Train one: mmalign train --objective reward")
    own, others = tokenizer.get_vocab(), read_tokenizer(folder).get_vocab()
    if any(others.get(token) != number for token, number in own.items()):
        raise CheckpointError(
            f"{folder} has another tokenizer than the policy", hint="Train the reward model on the policy's own model."
        )
    return stated


def _mean(stated: dict[str, Any]) -> float:
    return float(stated.get(REWARD_MEAN) or 0.0)


class _Saved:
    """Tensors of a folder, read by name one at a time. The file is closed in between, so that it takes no memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / _INDEX).is_file():
            self._files = dict(read_json(folder / _INDEX)["weight_map"])
        else:
            with safe_open(folder / _WEIGHTS, "pt") as file:
                self._files = dict.fromkeys(file.keys(), _WEIGHTS)

    def names(self) -> list[str]:
        return sorted(self._files)

    def get(self, name: str) -> Tensor | None:
        if name not in self._files:
            return None
        with safe_open(self.folder / self._files[name], "pt") as file:
            return file.get_tensor(name)


def _read_head(policy: "PreTrainedModel", folder: Path) -> nn.Linear:
    try:
        if (folder / HEAD_FILE).is_file():
            with safe_open(folder / HEAD_FILE, "pt") as file:
                weight = file.get_tensor("weight")
        else:
            saved = _Saved(folder)
            weights = [saved.get(name) for name in saved.names() if not name.startswith(f"{policy.base_model_prefix}.")]
            weight = weights[0] if len(weights) == 1 else None
    except unreadable() as error:
        raise CheckpointError(f"{folder}: the head cannot be read: {error}") from error
    embeddings: Any = policy.get_input_embeddings()
    width = int(embeddings.weight.shape[1])
    if weight is None or weight.shape != (1, width):
        raise CheckpointError(f"{folder} does not fit the policy: its head is not 1 x {width}", hint=_INSTEAD)
    head = nn.Linear(width, 1, bias=False)
    head.load_state_dict({"weight": weight})
    return head


@torch.no_grad()
def _check_base(policy: "PreTrainedModel", folder: Path, name: str) -> None:
    """Raise CheckpointError unless the saved trunk is the policy's, with the adapter added in the layers that it
    adapts."""
    adapted = dict(adapted_layers(policy, name))
    saved = _Saved(folder)
    for key, parameter in policy.named_parameters():
        layer, _, rest = key.partition(".base_layer.")
        plain = f"{layer}.{rest}" if rest else key
        if ".lora_" in key or not plain.startswith(f"{policy.base_model_prefix}."):
            continue
        stored, expected = saved.get(plain), parameter
        if rest == "weight" and layer in adapted and expected.is_floating_point():
            expected = expected + adapted[layer].get_delta_weight(name).to(expected)
        if stored is None or not _same(expected.cpu(), stored, exact=expected is parameter):
            raise CheckpointError(
                f"{folder} was trained on other weights than the policy's: {plain} differs",
                hint=f"Train the reward model on the policy's own model (here --backbone {policy.name_or_path}). "
                + _INSTEAD,
            )


def _same(expected: Tensor, found: Tensor, *, exact: bool) -> bool:
    found = found[: len(expected)]  # a row for padding may have been added to the embeddings
    if expected.shape != found.shape or not expected.is_floating_point():  # in 4 bits
        return False
    if exact:
        return torch.equal(expected, found.to(expected))
    return torch.allclose(
        expected, found.to(expected), rtol=_ROUNDING, atol=_ROUNDING * 0.1 * float(expected.abs().max())
    )
