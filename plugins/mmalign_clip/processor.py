"""The processor of a dual encoder: pictures to pixels, texts to ids. Picklable, and cheap for a data worker to import.

processor.image(picture)                  # [3, H, W], the evaluation transform
processor.image(picture, random.Random(0))    # the training transform, drawn from that generator
processor.text("a photo of a cat").ids    # [T], start and end included
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmalign.contract.backbone import TokenizedText
from mmalign_clip.images import Preprocess, evaluation_image, training_image
from mmalign_clip.texts import TextTokenizer

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class ClipProcessor:
    """crop_scale: the smallest and the largest share of the area that a training crop keeps."""

    preprocess: Preprocess
    tokenizer: TextTokenizer
    crop_scale: tuple[float, float] = (0.9, 1.0)
    flip_probability: float = 0.0

    @property
    def context_length(self) -> int:
        return self.tokenizer.context_length

    def image(self, image: "Image", rng: random.Random | None = None) -> "Tensor":
        """[3, H, W] float32; with `rng` a random crop, perhaps mirrored, without it the evaluation transform."""
        if rng is None:
            return evaluation_image(image, self.preprocess)
        return training_image(image, self.preprocess, rng, self.crop_scale, self.flip_probability)

    def text(self, text: str) -> TokenizedText:
        return self.tokenizer.text(text)
