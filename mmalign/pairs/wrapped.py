"""What the views of `mmalign.pairs` share: they stand for a backbone, whose other members are theirs, too."""

from typing import Any

import torch


class Wrapped:
    """backbone: set by each view in its constructor."""

    backbone: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "backbone":  # copying asks before there is a backbone
            raise AttributeError(name)
        return getattr(self.backbone, name)

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.module.parameters()).device
