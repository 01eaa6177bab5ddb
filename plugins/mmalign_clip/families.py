"""Tells the model families of this plugin apart by their configs alone. Standard library only.

    is_open_clip({"model_cfg": {"vision_cfg": {...}, "text_cfg": {...}}})    # True

transformers publishes the fixed-resolution SigLIP 2 checkpoints with model_type "siglip". "siglip2" is the model of
variable resolution (NaFlex); its input is not an image of one size, and no family here accepts it.
"""

from collections.abc import Callable, Mapping
from typing import Any

Matches = Callable[[Mapping[str, Any]], bool]


def _towers(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `model_cfg` of an open_clip config that has both towers, else an empty mapping."""
    model_cfg = config.get("model_cfg")
    if not isinstance(model_cfg, Mapping) or not {"vision_cfg", "text_cfg"} <= model_cfg.keys():
        return {}
    return model_cfg


def is_open_clip(config: Mapping[str, Any]) -> bool:
    towers = _towers(config)
    return bool(towers) and "multimodal_cfg" not in towers


def is_open_clip_coca(config: Mapping[str, Any]) -> bool:
    return "multimodal_cfg" in _towers(config)


def is_clip(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "clip"


def is_siglip(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "siglip"
