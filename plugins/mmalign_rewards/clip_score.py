"""How well answers fit an image: `--set rollout.rewards='[{"name": "clip-score", "image": "photo.jpg"}]'`.

score = 2.5 max(cos(image, answer), 0), by the embeddings of a dual encoder (Hessel 2021, "CLIPScore: A Reference-free
Evaluation Metric for Image Captioning"); with `text` in place of an image, between two texts.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor
from torch.nn.functional import normalize

from mmalign.contract.batch import Ragged
from mmalign.contract.examples import ImageRef
from mmalign.data.images import open_image
from mmalign.models.load import load_model, require_source
from mmalign.rl.answers import Answers
from mmalign_rewards.cut import CutTexts
from mmalign_rewards.options import ClipScoreConfig

if TYPE_CHECKING:
    from mmalign.registry.catalog import Catalog

WEIGHT = 2.5


class ClipScore:
    """Scores the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = ClipScoreConfig

    def __init__(self, config: ClipScoreConfig) -> None:
        self.config = config

    @torch.no_grad()
    def open(self, catalog: "Catalog", device: torch.device, say: Callable[[str], None]) -> None:
        """Load the dual encoder and embed the image or text to compare with; raises MmalignError."""
        needs = ("encode_text", *(["encode_image"] if self.config.image else []))
        source = require_source(catalog, self.config.backbone, needs, "reward clip-score")
        self._backbone: Any = load_model(catalog, source, needs=needs, device=device, frozen=True)
        self._device = device
        self._cut = CutTexts(self._backbone.processor.context_length, say)
        if self.config.image:
            pixels = self._backbone.processor.image(open_image(ImageRef(self.config.image)))
            target = self._backbone.encode_image(pixels[None].to(device))
        else:
            target = self._encode([self.config.text])
        self._target = normalize(target.float(), dim=1)[0]  # [D]

    @torch.no_grad()
    def score(self, answers: Answers) -> Tensor:
        """[M], from 0 to 2.5."""
        size, texts = self.config.batch_size, answers.texts
        rows = [self._encode(texts[start : start + size]) for start in range(0, len(texts), size)]
        features = normalize(torch.cat(rows).float(), dim=1)
        return WEIGHT * (features @ self._target).clamp(min=0)

    def _encode(self, texts: Any) -> Tensor:
        tokenized = [self._backbone.processor.text(text) for text in texts]
        self._cut.add([each.num_lost for each in tokenized])
        return self._backbone.encode_text(Ragged.from_list([each.ids for each in tokenized]).to(self._device))
