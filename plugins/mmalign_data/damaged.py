"""The embedded `damaged-pictures`: one picture under growing damage of one kind, ranked from clean to worst.

    mmalign train -c picture-judge
    mmalign train --objective reward --backbone clip-lite --dataset damaged-pictures --set 'dataset.damages=["blur"]'

Pictures are made when they are read: a crop of one of `photos`, or nine drawings of `emoji` at their own size. The
clean picture has rank 1; `levels` damaged ones follow, the worst last. What is cropped, drawn and damaged follows from
the key alone. Validation has photographs and drawings that training never has.
"""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import ImageRef, Ranking
from mmalign.data.images import open_image
from mmalign.hashing import stable_hash
from mmalign_data.distracted import SIDE, encoded
from mmalign_data.emoji import drawing, glyphs_of
from mmalign_data.photos import Photos, PhotosConfig

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "a sharp, clean photograph"
Damage = Literal["blur", "noise", "compression", "colour", "pixels", "fading"]
_HELD_OUT = ("clownfish", "koala")  # photographs
_NAMES_HELD_OUT = 0.15
_GRID, _DRAWING = 3, 64  # drawings a side, and pixels of one
_TINTS = ("#ffffff", "#d9e8f5", "#f5ead9", "#3c4650", "#8fa58a", "#b56a5d")


class DamagedPicturesConfig(BaseModel):
    """Options of the damaged pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["ranking"] = Field("ranking", description="ranking: pictures as answers, the best first")
    damages: tuple[Damage, ...] = Field(
        ("blur", "noise", "compression", "colour"), min_length=1, description="kinds of damage, one a ranking"
    )
    levels: int = Field(3, ge=1, le=8, description="damaged pictures beside the clean one")
    photographs: float = Field(0.5, ge=0, le=1, description="share of rankings with photographs; the rest has drawings")
    size: int = Field(400, ge=1, description="rankings for training; validation has a quarter as many")
    prompt: str = Field(PROMPT, min_length=1, description="the text that the pictures answer to")


class Source(NamedTuple):
    """A ranking before its pictures are made. photograph: where it is, or None for drawings."""

    key: str
    damage: str
    photograph: ImageRef | None


class DamagedPictures:
    """See the module."""

    Config: ClassVar[type[BaseModel]] = DamagedPicturesConfig

    def __init__(self, config: DamagedPicturesConfig, sources: Sequence[Source], drawings: Sequence[ImageRef]) -> None:
        self._config, self._sources, self._drawings = config, sources, drawings

    @classmethod
    def build(cls, config: DamagedPicturesConfig, split: str) -> Self:
        """The part named `split`; raises DataError if the installation lacks the files."""
        held_out = split == "validation"
        photos = Photos.build(PhotosConfig(), "train")
        assert photos is not None
        mine = [i for i in range(len(photos)) if (photos.classes[photos[i].label] in _HELD_OUT) == held_out]
        sources = []
        for number in range(-(-config.size // 4) if held_out else config.size):
            damage = config.damages[number % len(config.damages)]
            turn = number // len(config.damages)
            shown = None
            if int((turn + 1) * config.photographs) > int(turn * config.photographs):
                shown = photos[mine[stable_hash("photograph", split, number) % len(mine)]].image
            sources.append(Source(f"damaged-pictures:{split}:{number}:{damage}", damage, shown))
        return cls(config, sources, [drawing(glyph) for glyph in glyphs_of(split, _NAMES_HELD_OUT)])

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> Ranking:
        source, levels = self._sources[index], self._config.levels
        clean = self._clean(source)
        pictures = [damaged(clean, source.damage, level / levels, source.key) for level in range(levels + 1)]
        names = (f"{source.key}:{level}" for level in range(levels + 1))
        answers = tuple(ImageRef(name, data=encoded(each)) for name, each in zip(names, pictures, strict=True))
        return Ranking(source.key, self._config.prompt, answers, tuple(float(rank) for rank in range(1, levels + 2)))

    def report(self) -> Mapping[str, Any]:
        """Counts: rankings, and those of photographs; none is skipped."""
        photographs = sum(source.photograph is not None for source in self._sources)
        name = "damaged-pictures (embedded)"
        return {"kept": len(self), "skipped": {}, "source": name, "photographs": photographs}

    def fingerprint(self) -> str:
        """A hash of the options and of what each ranking shows."""
        shown = [(source.key, source.photograph and source.photograph.path[-20:]) for source in self._sources]
        offsets = [reference.offset for reference in self._drawings]
        return hashlib.sha256(f"{self._config!r}{shown}{offsets}".encode()).hexdigest()[:16]

    def _clean(self, source: Source) -> "Image":
        from PIL import Image

        draw = stable_hash("clean", source.key)
        if source.photograph is not None:
            return _crop(open_image(source.photograph), draw)
        canvas = Image.new("RGB", (SIDE, SIDE), _TINTS[draw % len(_TINTS)])
        step = SIDE // _GRID
        for place in range(_GRID * _GRID):
            reference = self._drawings[stable_hash("drawing", source.key, place) % len(self._drawings)]
            layer = _transparent(reference)
            corner = (step * (place % _GRID) + (step - _DRAWING) // 2, step * (place // _GRID) + (step - _DRAWING) // 2)
            canvas.paste(layer, corner, layer)
        return canvas


def damaged(picture: "Image", damage: str, strength: float, key: str) -> "Image":
    """RGB of the same size. strength: 0 (unchanged) to 1. key: what the noise is drawn from."""
    return DAMAGES[damage](picture, strength, key) if strength else picture


def _blur(picture: "Image", strength: float, key: str) -> "Image":
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(4.0 * strength))


def _noise(picture: "Image", strength: float, key: str) -> "Image":
    import numpy as np
    from PIL import Image

    values = np.asarray(picture, dtype=np.float32)
    drawn = np.random.default_rng(stable_hash("noise", key)).standard_normal(values.shape, dtype=np.float32)
    return Image.fromarray((values + 60 * strength * drawn).clip(0, 255).astype(np.uint8))


def _compression(picture: "Image", strength: float, key: str) -> "Image":
    from PIL import Image

    file = io.BytesIO()
    picture.save(file, "JPEG", quality=round(30 * (1 - strength) ** 1.5) + 4)
    file.seek(0)
    return Image.open(file).convert("RGB")


def _colour(picture: "Image", strength: float, key: str) -> "Image":
    from PIL import ImageEnhance

    return ImageEnhance.Color(picture).enhance(1 - strength)


def _pixels(picture: "Image", strength: float, key: str) -> "Image":
    from PIL import Image

    small = [max(1, round(side / (1 + 7 * strength))) for side in picture.size]
    return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)


def _fading(picture: "Image", strength: float, key: str) -> "Image":
    from PIL import ImageEnhance

    return ImageEnhance.Contrast(picture).enhance(1 - 0.8 * strength)


DAMAGES: dict[str, Callable[["Image", float, str], "Image"]] = {
    "blur": _blur,
    "noise": _noise,
    "compression": _compression,
    "colour": _colour,
    "pixels": _pixels,
    "fading": _fading,
}
"""Gaussian blur of up to 4 pixels, noise with a deviation of up to 60 of 255, JPEG at a quality down to 4, colour down
to grey, squares of up to 8 pixels, contrast down to a fifth."""


def _crop(photograph: "Image", draw: int) -> "Image":
    """A square of 224 pixels: from a photograph at most a half larger, so that it stays sharp."""
    from PIL import Image

    shorter = min(photograph.size)
    side = min(shorter, SIDE + draw % max(1, SIDE // 2))
    left = (draw >> 16) % (photograph.width - side + 1)
    top = (draw >> 32) % (photograph.height - side + 1)
    crop = photograph.crop((left, top, left + side, top + side))
    return crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _transparent(reference: ImageRef) -> "Image":
    """A drawing with its transparency, which `open_image` puts on white."""
    from PIL import Image

    with open(reference.path, "rb") as file:
        file.seek(reference.offset)
        return Image.open(io.BytesIO(file.read(reference.size))).convert("RGBA")
