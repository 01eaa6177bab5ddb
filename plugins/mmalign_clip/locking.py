"""Locks towers (LiT, arXiv 2111.07991) and drops patches, where the tower supports it.

    lock_image(module, unlocked_groups=0)      # nothing in the image tower trains, BatchNorm statistics included
    lock_text(module, unlocked_layers=2)       # the last two layer groups train: last block with final norm, projection

Groups are open_clip's. With a timm trunk the projection behind it always trains, as in open_clip.
"""

import contextlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmalign.errors import UsageError

if TYPE_CHECKING:
    from mmalign_clip.build import OpenClipModule


def lock_image(module: "OpenClipModule", unlocked_groups: int) -> None:
    """Freeze the image tower except its last `unlocked_groups`; raises UsageError for a tower without groups."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    visual = module.visual
    if isinstance(visual, TimmModel):
        _lock_timm(visual.trunk, unlocked_groups)
    elif isinstance(visual, ModifiedResNet) and unlocked_groups:
        raise UsageError(
            "a ModifiedResNet has no layer groups to leave unlocked",
            hint="Set backbone.unlocked_image_groups=0, or take a vision transformer or a timm tower.",
        )
    else:
        visual.lock(unlocked_groups=unlocked_groups, freeze_bn_stats=False)
    _freeze_statistics(visual)


def lock_text(module: "OpenClipModule", unlocked_layers: int) -> None:
    """Freeze the text tower except its last `unlocked_layers` groups."""
    from open_clip import CLIP

    # The towers of transformers print to stdout, where results go
    with contextlib.redirect_stdout(io.StringIO()):
        if isinstance(module, CLIP):
            module.lock_text_tower(unlocked_layers)
        else:
            module.text.lock(unlocked_layers, True)


def with_patch_dropout(vision_cfg: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The `vision_cfg` with patch dropout; raises UsageError for towers that have none."""
    if vision_cfg.get("timm_model_name") or isinstance(vision_cfg.get("layers"), list):
        raise UsageError(
            "patch_dropout needs one of open_clip's vision transformers; this image tower is "
            f"{vision_cfg.get('timm_model_name') or 'a ModifiedResNet'}",
            hint="Leave backbone.patch_dropout at 0, or take a backbone such as open_clip:ViT-B-32.",
        )
    return {**vision_cfg, "patch_dropout": share}


def _lock_timm(trunk: Any, unlocked_groups: int) -> None:
    """A timm trunk states which parameters form a group, from the stem (0) to the head."""
    from timm.models import group_parameters

    groups: Any = group_parameters(trunk, trunk.group_matcher()) if unlocked_groups else {}
    last_locked = max(groups, default=0) - unlocked_groups
    free = {name for group, names in groups.items() if group > last_locked for name in names}
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(name in free)


def _freeze_statistics(visual: nn.Module) -> None:
    """Keep locked BatchNorms in evaluation mode, whatever mode the model is put in.

    open_clip replaces them by another class instead, which loses the activation inside timm's fused BatchNorms.
    """
    if any(_is_locked(layer) for layer in visual.modules()):
        visual.register_forward_pre_hook(_keep_in_evaluation)


def _keep_in_evaluation(visual: nn.Module, _: Any) -> None:
    for layer in visual.modules():
        if _is_locked(layer):
            layer.training = False


def _is_locked(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and not any(parameter.requires_grad for parameter in layer.parameters())
