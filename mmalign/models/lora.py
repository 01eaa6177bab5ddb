"""Low-rank adapters (LoRA, Hu 2021, arXiv 2106.09685) through peft, in any module and in place.

    inject(module, LoraOptions(rank=16))       # y = W x + alpha/r B A dropout(x), B = 0 at the start; only A, B train
    add_adapter(module, "critic")              # a second one on the same weights; see mmalign.models.adapter_switch
    merged_state(module)                       # the tensors of the module without adapter: W + alpha/r B A
    save_adapter(module, folder, base="...")   # what peft's PeftModel.from_pretrained loads

A backbone that declares `adapter_switch` has these options as `lora`, and adds the adapter before it tries anything on
the model. On a module without an adapter, these functions do nothing and import nothing. Merging, saving, scaling and
describing concern the first adapter, the policy's.
"""

import copy
import importlib.util
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mmalign.errors import UsageError, did_you_mean
from mmalign.models.adapter_switch import adapted_layers, adapter_off, select

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER_FOLDER = "adapter"  # beside a saved model
_NAME = "default"


class LoraOptions(BaseModel):
    """A low-rank adapter: the model's own weights are frozen, and only the adapter's train."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rank: int = Field(0, ge=0, description="rank of each layer's adapter; 0: no adapter, all weights train")
    alpha: float = Field(0.0, ge=0, description="the adapter's output is scaled by alpha / rank; 0: twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs dropped in training")
    targets: tuple[str, ...] = Field(
        (), description="last names of layers with an adapter, such as q_proj; empty: all linear layers that train"
    )

    @property
    def numerator(self) -> float:
        """alpha, with its default resolved."""
        return self.alpha or 2.0 * self.rank


def require(options: LoraOptions) -> None:
    """Raise UsageError where the options ask for an adapter and peft is missing. Call it before weights are loaded."""
    if options.rank and importlib.util.find_spec("peft") is None:
        raise UsageError(
            "backbone.lora needs the package peft, which is not installed",
            hint='python -m pip install "mmalign[lora]"',
        )


def inject(module: "nn.Module", options: LoraOptions, *, spare: "Collection[nn.Module | None]" = ()) -> None:
    """Put an adapter into linear layers and freeze everything else; does nothing for rank 0.

    Locked layers, and layers in `spare` (an output head), get none; neither do torch's MultiheadAttention layers, which
    read their weights without calling a layer. Draws A from torch's global generator. Raises UsageError.
    """
    require(options)
    if not options.rank:
        return
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    layers = _linear_layers(module, spare)
    chosen = _choose(layers, options.targets)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.numerator,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        target_modules=_as_peft_targets(chosen, module),
        fan_in_fan_out=any(isinstance(layers[name], Conv1D) for name in chosen),  # GPT-2 stores W transposed
    )
    inject_adapter_in_model(config, module, adapter_name=_NAME)
    select(module, _NAME)
    assert {name for name, _ in adapted_layers(module)} == set(chosen)


def add_adapter(module: "nn.Module", name: str, config: Any = None, *, trains: bool = True) -> None:
    """Put another adapter beside the first, with B = 0; the first stays selected, and trained parameters keep training.

    config: peft's LoraConfig; None: the first adapter's. Draws A from torch's global generator.
    """
    from peft import inject_adapter_in_model

    settings: Any = module.peft_config
    before = {id(parameter): parameter.requires_grad for parameter in module.parameters()}
    with warnings.catch_warnings():  # peft warns that there is an adapter already
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config or copy.deepcopy(settings[_NAME]), module, adapter_name=name)
    for parameter in module.parameters():
        parameter.requires_grad_(before.get(id(parameter), trains))
    select(module, _NAME)


def remove_adapter(module: "nn.Module", name: str) -> None:
    """Remove an adapter that `add_adapter` added."""
    for _, layer in adapted_layers(module, name):
        layer.delete_adapter(name)
    settings: Any = module.peft_config
    del settings[name]
    select(module, _NAME)


def adapter_parameters(module: "nn.Module", name: str) -> "list[nn.Parameter]":
    """The parameters of one adapter."""
    layers = [layer for _, layer in adapted_layers(module, name)]
    return [half[name].weight for layer in layers for half in (layer.lora_A, layer.lora_B)]


class Adaptable:
    """Base class of backbones with `adapter_switch`."""

    module: Any  # each family's own class of model

    @property
    def adapter_is_fresh(self) -> bool:
        """Whether there is an adapter: it always starts with B = 0 on the starting weights."""
        return bool(adapted_layers(self.module, _NAME))

    def adapter_off(self) -> AbstractContextManager[None]:
        """Inside the context, the module computes with the base weights alone; see the function of this name."""
        return adapter_off(self.module)


def merged_state(module: "nn.Module", state: "Mapping[str, Tensor] | None" = None) -> "dict[str, Tensor]":
    """The state dict that the module would have with its adapter added to its weights; the module does not change.

    state: used instead of the module's own state dict, where that is not of floats.
    """
    layers = dict(adapted_layers(module))
    own = {f"{name}.{key}" for name, layer in layers.items() for key in layer.state_dict() if "lora_" in key}
    merged = {}
    for key, tensor in (module.state_dict() if state is None else state).items():
        name, _, rest = key.partition(".base_layer.")
        if key in own:
            continue
        if name in layers and rest == "weight" and _NAME in layers[name].lora_A:
            tensor = tensor + layers[name].get_delta_weight(_NAME).detach().to(tensor)
        merged[f"{name}.{rest}" if name in layers else key] = tensor
    return merged


def scale_adapter(module: "nn.Module", share: float) -> bool:
    """Multiply the adapter's part of the weights by `share`, which interpolates between starting and trained weights.

    Returns whether there is an adapter. Call it without gradient.
    """
    layers = adapted_layers(module, _NAME)
    for _, layer in layers:
        layer.lora_B[_NAME].weight.mul_(share)
    return bool(layers)


def save_adapter(module: "nn.Module", folder: Path, *, base: str, task: str | None = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors into `folder` for peft; does nothing without an adapter.

    base: the model that the adapter belongs to, a path or a hub id. task: peft's name of the task, such as CAUSAL_LM.
    """
    from safetensors.torch import save_file

    layers = adapted_layers(module, _NAME)
    if not layers:
        return
    settings: Any = module.peft_config
    settings[_NAME].base_model_name_or_path = base
    settings[_NAME].task_type = task
    folder.mkdir(parents=True, exist_ok=True)
    settings[_NAME].save_pretrained(folder)
    tensors = {
        f"base_model.model.{name}.{half}.weight": weights[_NAME].weight.detach().cpu().contiguous()
        for name, layer in layers
        for half, weights in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def describe_adapter(module: "nn.Module") -> dict[str, str]:
    """{"adapter": "LoRA of rank 16 on 84 layers: k_proj, q_proj"}, or {}."""
    layers = adapted_layers(module, _NAME)
    if not layers:
        return {}
    names = ", ".join(sorted({name.rpartition(".")[2] for name, _ in layers}))
    return {"adapter": f"LoRA of rank {layers[0][1].r[_NAME]} on {len(layers)} layers: {names}"}


def _linear_layers(module: "nn.Module", spare: "Collection[nn.Module | None]") -> "dict[str, nn.Module]":
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    unused = [layer.out_proj for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)]
    left_out = {id(layer) for layer in (*unused, *spare)}
    linear = {name: child for name, child in module.named_modules() if isinstance(child, nn.Linear | Conv1D)}
    return {
        name: child
        for name, child in linear.items()  # quantised weights do not train, but may have an adapter
        if id(child) not in left_out and (child.weight.requires_grad or not child.weight.is_floating_point())
    }


def _choose(layers: "dict[str, nn.Module]", targets: tuple[str, ...]) -> list[str]:
    known = sorted({name.rpartition(".")[2] for name in layers})
    if not known:
        raise UsageError("backbone.lora finds no linear layer that trains", hint="Unlock a part of the model.")
    for target in targets:
        if target not in known:
            hint = f"{did_you_mean(target, known)} Layers here: {', '.join(known)}.".strip()
            raise UsageError(f"backbone.lora.targets: no linear layer that trains is named {target!r}", hint=hint)
    return [name for name in layers if not targets or name.rpartition(".")[2] in targets]


def _as_peft_targets(chosen: list[str], module: "nn.Module") -> list[str] | str:
    """Last names, if they select exactly the chosen layers; else an expression that matches whole names only."""
    last = {name.rpartition(".")[2] for name in chosen}
    same = {name for name, _ in module.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last) if same == set(chosen) else "|".join(map(re.escape, chosen))
