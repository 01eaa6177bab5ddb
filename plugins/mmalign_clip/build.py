"""Builds an open_clip model, and gives it its weights exactly once.

    module = build(model_cfg)                # random weights, drawn from torch's global generator
    module = build(model_cfg, weights)       # weights of a safetensors file, as float32; draws nothing

Every tensor must be present and fit, because open_clip silently resizes position embeddings and zeroes a missing bias.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmalign.errors import CheckpointError
from mmalign.models.folder import offline, weightless

if TYPE_CHECKING:
    from open_clip import CLIP, CoCa, CustomTextCLIP

    OpenClipModule = CLIP | CustomTextCLIP | CoCa

_INITIALISERS = frozenset(
    {"normal_", "uniform_", "trunc_normal_", "xavier_normal_", "xavier_uniform_", "kaiming_normal_", "kaiming_uniform_"}
)


class _SkipInitialisers(TorchFunctionMode):
    """Skips initialisers, so that tensors stay as allocated: their values are loaded next."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # `func` can be a C descriptor; these have a name too
        if func.__name__ in _INITIALISERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build(model_cfg: Mapping[str, Any], weights: Path | None = None) -> "OpenClipModule":
    """Return the model of a `model_cfg` on the CPU; raises CheckpointError."""
    if weights is None:
        return _initialise_decoder(_construct(model_cfg))
    state = _read(weights)
    with torch.random.fork_rng(devices=[]), _SkipInitialisers():
        module = _construct(model_cfg)
    return _fill(module, state, weights)


def count_parameters(model_cfg: Mapping[str, Any]) -> int:
    """The number of parameters of a `model_cfg`, built without memory for its weights. Draws nothing; raises
    CheckpointError."""
    with weightless():
        return sum(parameter.numel() for parameter in _construct(model_cfg).parameters())


def _construct(model_cfg: Mapping[str, Any]) -> "OpenClipModule":
    import open_clip

    model_cfg = copy.deepcopy(dict(model_cfg))
    model_cfg["vision_cfg"]["timm_model_pretrained"] = False
    is_hf_text = bool(model_cfg["text_cfg"].get("hf_model_name"))
    if is_hf_text:
        model_cfg["text_cfg"]["hf_model_pretrained"] = False
    custom_text = model_cfg.pop("custom_text", False) or is_hf_text
    coca = "multimodal_cfg" in model_cfg
    cls = open_clip.CoCa if coca else open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    try:
        with offline():
            # A text tower of transformers is built in the precision that its config names.
            return cast("OpenClipModule", cls(**model_cfg).float())
    except OSError as error:
        raise CheckpointError(
            f"the text tower is {model_cfg['text_cfg'].get('hf_model_name')}, whose config is not on this machine",
            hint="Download it once into the hub's cache, or take a model that includes its text tower.",
        ) from error
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"open_clip cannot build this model_cfg: {type(error).__name__}: {error}",
            hint="Check open_clip_config.json against open_clip's own model_configs.",
        ) from error


def _initialise_decoder(module: "OpenClipModule") -> "OpenClipModule":
    """open_clip 3.3 leaves CoCa's output projection as unset memory; its own rule for it is width ** -0.5."""
    from open_clip import CoCa

    if isinstance(module, CoCa):
        projection = module.text_decoder.text_projection
        torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    return module


def _read(weights: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(weights)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{weights} is not a readable safetensors file: {error}") from error


def _fill(module: "OpenClipModule", state: dict[str, Tensor], weights: Path) -> "OpenClipModule":
    """Load `state` (any float type) into the float32 module; every name and shape must agree."""
    from open_clip import CLIP
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(cast(Any, module), state)
    if not isinstance(module, CLIP) and "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    own = module.state_dict()
    for name in ("logit_scale", "logit_bias"):
        # Older checkpoints store scalars as [1]
        if name in state and name in own and state[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    # BatchNorm's step counter is absent from some checkpoints, and nothing reads it
    counters = {name for name in own if name.endswith("num_batches_tracked")} - state.keys()
    missing, extra = sorted(own.keys() - state.keys() - counters), sorted(state.keys() - own.keys())
    # transformers' text towers once stored the numbers 0..T-1
    extra = [name for name in extra if not name.endswith(".embeddings.position_ids")]
    unfit = [
        f"{name} is {list(state[name].shape)}, the model needs {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    problems = [*(f"{name} is missing" for name in missing), *(f"{name} is not known" for name in extra), *unfit]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise CheckpointError(f"{weights} does not fit its config: {shown}", hint="Is it the config of other weights?")
    for name in counters:
        own[name].zero_()
    module.load_state_dict({name: state[name] for name in own.keys() & state.keys()}, strict=False)
    return module
