"""Pictures to tensors: open_clip's evaluation transform, and a training crop drawn from a given generator.

    Preprocess(size=(224, 224), mean=..., std=..., interpolation="bicubic", resize_mode="shortest")
    evaluation_image(picture, preprocess)                  # [3, H, W] float32, equal to open_clip's bit for bit
    training_image(picture, preprocess, rng, (0.9, 1.0), 0.5)

Imports PIL, numpy and torch only, so that a data worker starts fast. Pictures become RGB before anything else: resizing
a palette image mixes palette indices.
"""

import math
import random
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
INTERPOLATIONS = (*_RESAMPLING, "random")
RESIZE_MODES = ("shortest", "longest", "squash")
_ASPECT_RATIOS = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Preprocess:
    """The images that a model expects. size: (height, width) in pixels; mean, std: per channel, of values in [0, 1].

    resize_mode: "shortest" side then centre crop, "longest" side then pad with `fill_color`, or "squash". interpolation
    "random" (an option of training in open_clip) means bicubic here.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill_color: int = 0

    def as_dict(self) -> dict[str, Any]:
        """open_clip's `preprocess_cfg`."""
        return {**asdict(self), "mode": "RGB"}


def evaluation_image(picture: Image.Image, preprocess: Preprocess) -> torch.Tensor:
    """[3, H, W] float32 (source: open_clip 3.3 `image_transform(is_train=False)`)."""
    picture = picture.convert("RGB")
    height, width = preprocess.size
    resampling = _RESAMPLING.get(preprocess.interpolation, Image.Resampling.BICUBIC)
    if preprocess.resize_mode == "squash":
        return _to_tensor(_resize(picture, (width, height), resampling), preprocess)
    if preprocess.resize_mode == "longest":
        ratio = max(picture.height / height, picture.width / width)
        target = round(picture.width / ratio), round(picture.height / ratio)
    elif height == width:
        short, long = sorted(picture.size)
        other = int(height * long / short)
        target = (height, other) if picture.width <= picture.height else (other, height)
    else:
        # open_clip ignores `interpolation` for a target that is not square
        resampling = Image.Resampling.BICUBIC
        ratio = min(picture.height / height, picture.width / width)
        target = round(picture.width / ratio), round(picture.height / ratio)
    return _to_tensor(_centre(_resize(picture, target, resampling), preprocess), preprocess)


def training_image(
    picture: Image.Image,
    preprocess: Preprocess,
    rng: random.Random,
    crop_scale: tuple[float, float],
    flip_probability: float,
) -> torch.Tensor:
    """[3, H, W] float32: a random crop of `crop_scale` of the area, resized bicubically, perhaps mirrored."""
    picture = picture.convert("RGB")
    box = _crop_box(picture.size, rng, crop_scale)
    height, width = preprocess.size
    picture = picture.crop(box).resize((width, height), Image.Resampling.BICUBIC)
    if rng.random() < flip_probability:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _to_tensor(picture, preprocess)


def _crop_box(size: tuple[int, int], rng: random.Random, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom): area uniform in `scale`, aspect ratio log-uniform in 3/4..4/3, position uniform.

    After ten boxes that do not fit, the largest centred one with an allowed aspect ratio.
    """
    width, height = size
    low, high = (math.log(ratio) for ratio in _ASPECT_RATIOS)
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    ratio = min(max(width / height, _ASPECT_RATIOS[0]), _ASPECT_RATIOS[1])
    w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _resize(picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """`size` is (width, height), at least one pixel each way (a 1 x 2,000 line would otherwise have no width)."""
    size = max(1, size[0]), max(1, size[1])
    return picture if picture.size == size else picture.resize(size, resampling)


def _centre(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Pad an image that is too small, crop one that is too large, around the centre."""
    height, width = preprocess.size
    extra_w, extra_h = max(0, width - picture.width), max(0, height - picture.height)
    if extra_w or extra_h:
        border = (extra_w // 2, extra_h // 2, (extra_w + 1) // 2, (extra_h + 1) // 2)
        fill = preprocess.fill_color if preprocess.resize_mode == "longest" else 0
        picture = ImageOps.expand(picture, border, fill=(fill, fill, fill))
    top, left = round((picture.height - height) / 2.0), round((picture.width - width) / 2.0)
    return picture.crop((left, top, left + width, top + height))


def _to_tensor(picture: Image.Image, preprocess: Preprocess) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return pixels.sub_(mean).div_(std)
