"""Folders that hold only a low-rank adapter of peft: read without trust, and merged into the model that they belong to.

    read_base(folder)                 # "../llama": the base model that adapter_config.json names
    require(folders)                  # before weights are loaded: raises unless peft is installed
    merge(module, folder)             # W + alpha/r B A in place; raises CheckpointError
    attach(module, folder, "reward")  # beside the module's adapters, frozen or not; raises CheckpointError

The result of a merge is an ordinary model: a new adapter can be trained on it, and its reference is the model with that
adapter off. Plain LoRA is read, also with rank-stabilised scaling and DoRA. Adapters that change more than weights of
layers, or that start from a changed base, are refused by the name of the option.
"""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import CheckpointError
from mmalign.models.folder import ADAPTER_CONFIG, read_json, refuse_code, unreadable, without_weights

if TYPE_CHECKING:
    from torch import nn

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_USED = frozenset(
    "r lora_alpha target_modules exclude_modules fan_in_fan_out use_rslora use_dora layers_to_transform layers_pattern "
    "rank_pattern alpha_pattern".split()
)
# Options that say where the adapter is from, or matter only in training and initialisation.
_WITHOUT_EFFECT = frozenset(
    "peft_type task_type base_model_name_or_path inference_mode auto_mapping peft_version lora_dropout loftq_config "
    "megatron_core eva_config runtime_config qalora_group_size".split()
)
_HARMLESS = {"bias": "none", "revision": "main"}
_BASE_KEPT = (True, False, "gaussian", "eva", "orthogonal")  # values of init_lora_weights that leave the base alone
_MERGE = "Merge it with peft (PeftModel.from_pretrained, merge_and_unload, save_pretrained), and give that folder."


def read_base(folder: Path) -> str:
    """The base model that an adapter's config names; raises CheckpointError for an adapter that cannot be merged."""
    path = folder / ADAPTER_CONFIG
    settings = read_json(path)
    refuse_code({key: value for key, value in settings.items() if key != "auto_mapping"}, path)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: an adapter of type {kind!r}; LORA is known here", hint=_MERGE)
    odd = sorted(
        key
        for key, value in settings.items()
        if value and key not in _USED | _WITHOUT_EFFECT | {"init_lora_weights"} and _HARMLESS.get(key) != value
    )
    if settings.get("init_lora_weights", True) not in _BASE_KEPT:
        odd.append("init_lora_weights")
    if odd:
        raise CheckpointError(f"{path} sets {odd[0]} = {settings[odd[0]]!r}, which is not known here", hint=_MERGE)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        what = without_weights(folder, ADAPTER_WEIGHTS)
        raise CheckpointError(f"{folder} {what}", hint="Save the adapter again with peft, which writes safetensors.")
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{path} names no base model", hint="Set base_model_name_or_path to its folder.")
    return base


def require(folders: Sequence[Path]) -> None:
    """Raise CheckpointError where there is an adapter to merge and peft is missing. Call it before weights are
    loaded."""
    if folders and importlib.util.find_spec("peft") is None:
        raise CheckpointError(
            f"{folders[-1]} holds an adapter, and the package peft that reads it is not installed",
            hint='python -m pip install "mmalign[lora]"',
        )


def merge(module: "nn.Module", folder: Path) -> None:
    """Add an adapter to the weights of the module, and change nothing else; raises CheckpointError."""
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file

    from mmalign.models.lora import adapted_layers

    read_base(folder)
    settings = {key: value for key, value in read_json(folder / ADAPTER_CONFIG).items() if key in _USED}
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    uses = Counter(parameter.data_ptr() for _, parameter in module.named_parameters(remove_duplicate=False))
    try:
        tensors = _without_base(module, load_file(folder / ADAPTER_WEIGHTS), folder)
        with torch.random.fork_rng(devices=[]):  # the drawn values are replaced
            tuner: Any = LoraModel(module, LoraConfig(**settings), "default")
        _check(tuner.model, tensors, folder)
        tied = [
            name for name, layer in adapted_layers(tuner.model) if uses[layer.get_base_layer().weight.data_ptr()] > 1
        ]
        if tied:
            raise CheckpointError(
                f"{folder} has an adapter on {tied[0]}, which shares its weights with another layer (tied embeddings): "
                "merging would change both",
                hint="Save the base model with tie_word_embeddings=false and the weights twice, and merge into that.",
            )
        set_peft_model_state_dict(tuner.model, tensors, adapter_name="default")
        with torch.no_grad():
            tuner.merge_and_unload()
    except unreadable() as error:
        raise CheckpointError(
            f"{folder}: the adapter cannot be put into its base model: {error}",
            hint="Is base_model_name_or_path the model that it was trained on?",
        ) from error
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trained[name])


def attach(module: "nn.Module", folder: Path, name: str, *, trains: bool) -> None:
    """Put a saved adapter beside those of the module, under its own name; raises CheckpointError.

    The caller must check that the module's weights are those that the adapter was trained on.
    """
    from peft import LoraConfig
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file

    from mmalign.models.lora import add_adapter, remove_adapter

    read_base(folder)
    settings = {key: value for key, value in read_json(folder / ADAPTER_CONFIG).items() if key in _USED}
    if settings.get("use_dora"):
        raise CheckpointError(
            f"{folder}: DoRA rescales the weights, and cannot lie beside another adapter", hint=_MERGE
        )
    try:
        add_adapter(module, name, LoraConfig(**settings), trains=trains)
    except unreadable() as error:
        raise CheckpointError(f"{folder}: the adapter cannot be put into this model: {error}") from error
    try:
        tensors = _without_base(module, load_file(folder / ADAPTER_WEIGHTS), folder)
        _check(module, tensors, folder, name)
        set_peft_model_state_dict(module, tensors, adapter_name=name)
    except (CheckpointError, *unreadable()) as error:
        remove_adapter(module, name)
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder}: the adapter cannot be read: {error}") from error


def _without_base(module: "nn.Module", tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The adapter's own tensors, without the weights of embeddings and heads that peft writes beside an adapter on
    them. Raises CheckpointError where those are not the base model's."""
    import torch

    own = dict(module.named_parameters(remove_duplicate=False))
    kept = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix("base_model.model.")
        plain = inner.replace(".base_layer.", ".")
        base = own[plain] if plain in own else own.get(inner)
        if base is None:
            kept[name] = tensor
        elif base.shape != tensor.shape or not torch.equal(base.detach().to(tensor), tensor):
            raise CheckpointError(
                f"{folder} brings weights of its own for {plain}, {tuple(tensor.shape)}, which are not the base "
                f"model's, {tuple(base.shape)}: its vocabulary was resized, or the layer was trained in full",
                hint=_MERGE,
            )
    return kept


def _check(module: "nn.Module", tensors: dict[str, Any], folder: Path, name: str = "default") -> None:
    """Raise CheckpointError unless the file has exactly the tensors that the base model's layers need."""
    from peft.utils import get_peft_model_state_dict

    asked = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
    expected = {name: tuple(tensor.shape) for name, tensor in asked.items()}
    shapes = {name.removeprefix("base_model.model."): tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{folder}: {len(wrong)} tensors of the adapter are not its base model's, such as {name}: "
            f"{shapes.get(name, 'missing')} in the file, {expected.get(name, 'no such layer')} in the model",
            hint="Is base_model_name_or_path the model that it was trained on?",
        )
