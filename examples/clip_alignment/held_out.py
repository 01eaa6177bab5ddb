"""Pictures that no run here learns from, clip-lite on them, and intervals: what the three demonstrations share.

    drawings = openmoji(Path("work"), 500)                 # [Picture(name="cat", image=...)]
    encoder = Encoder(CLIP_LITE)
    right = encoder.images([picture.image for picture in drawings]) @ encoder.texts(["a drawing of a cat"]).T > 0.2
    mean_interval(right[:, 0])                             # (mean, low, high)

Drawings are those of OpenMoji (npm; CC-BY-SA 4.0, fetched and not bundled), a style that neither clip-lite nor a run
here was trained on; most of their names were. Photographs are those of GCompris (Debian) and of scikit-image and
scikit-learn, without the nine that are bundled with mmalign. Needs resvg-py, and Debian's `apt-get` and `dpkg-deb`.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from mmalign_data.emoji import GROUPS
from PIL import Image

from mmalign.hashing import stable_hash

sys.path.append(str(Path(__file__).parents[1] / "embedded_clip"))
from none_of_these import emoji, gcompris, samples
from prepare_data import place
from sources import HELD_OUT_STYLE, Emoji, Sources

CLIP_LITE = Path(__file__).parents[2] / "plugins" / "mmalign_clip" / "clip_lite"
DRAWING, PHOTOGRAPH = "a drawing of a {}", "a photo of a {}"
SIDE, _BATCH = 224, 4  # pixels; a small batch stays in a CPU's cache
_RESAMPLES = 10_000
# clip-lite's names of the photographs in plugins/mmalign_data/photos
_BUNDLED = {"baseball", "bison", "bucket", "cat", "clownfish", "cup of coffee", "koala", "giant panda", "polar bear"}


class Picture(NamedTuple):
    """image: RGB, 224 pixels square."""

    name: str
    image: Image.Image


class Encoder:
    """A dual encoder in open_clip's format."""

    def __init__(self, folder: Path) -> None:
        self._model, _, self._preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self._tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self._model.eval()
        self._model.visual.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        self.scale = self._model.logit_scale.exp().item()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D], unit length."""
        parts = [self._model.encode_text(self._tokenizer(list(part)), normalize=True) for part in _split(texts, 64)]
        return torch.cat(parts).numpy()

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """[N, D], unit length."""
        pixels = (torch.stack([self._preprocess(image) for image in part]) for part in _split(images, _BATCH))
        parts = (part.contiguous(memory_format=torch.channels_last) for part in pixels)
        return torch.cat([self._model.encode_image(part, normalize=True) for part in parts]).numpy()


def openmoji(work: Path, number: int) -> list[Picture]:
    """The first `number` drawings of things, in the order of a hash of their names."""
    drawings = [Picture(picture.name, picture.image) for picture in emoji(Sources(work))]
    return sorted(drawings, key=lambda picture: stable_hash("openmoji", picture.name))[:number]


def openmoji_groups(work: Path, number: int) -> list[Picture]:
    """Drawings of all nine groups of `emoji`, without variants of the skin; `name` is the group's text. None is among
    the first 500 of `openmoji`."""
    sources = Sources(work)
    titles = dict(zip((0, 1, *range(3, 10)), GROUPS.values(), strict=True))  # emojibase's numbers; 2: parts of emoji
    told = json.loads((sources.folder("names") / "en/data.json").read_text())
    others = {picture.name for picture in openmoji(work, 500)}
    rows = [row for row in told if row.get("group") in titles and row["label"] not in others]
    rows.sort(key=lambda row: stable_hash("openmoji groups", row["label"]))
    drawings = ((row, drawing_of(sources, row)) for row in rows)
    shown = (Picture(titles[row["group"]], image) for row, image in drawings if image is not None)
    return list(islice(shown, number))


def drawing_of(sources: Sources, row: Mapping[str, Any]) -> Image.Image | None:
    """On white; None where OpenMoji lacks it. row: of emojibase."""
    code = row["hexcode"].replace("-FE0F", "")
    picture = sources.picture(Emoji(code, (row["label"],), (), (0, 0), ""), HELD_OUT_STYLE)
    return None if picture is None else place(picture, 0, "")


def photographs(work: Path) -> list[Picture]:
    """Of animals, things, buildings and scenes, each once."""
    pictures = [*gcompris(work), *samples(Sources(work))]
    shown = [p for p in pictures if p.kind == "photographs" and p.name not in _BUNDLED]
    return [Picture(picture.name, square(picture.image)) for picture in shown]


def square(image: Image.Image) -> Image.Image:
    """The centre, resized to 224 pixels."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def named(encoder: Encoder, pictures: Sequence[Picture]) -> np.ndarray:
    """[N]: 1 where a picture gets its own name, of all their names."""
    names = list(dict.fromkeys(picture.name for picture in pictures))
    own = np.array([names.index(picture.name) for picture in pictures])
    best = (
        encoder.images([picture.image for picture in pictures])
        @ encoder.texts([DRAWING.format(name) for name in names]).T
    ).argmax(1)
    return (best == own).astype(float)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """values: [N], one a picture. Their mean, and the 95% interval of a bootstrap over the pictures."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=_RESAMPLES)
    low, high = np.percentile(counts @ values / len(values), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def wilson(values: np.ndarray) -> tuple[float, float, float]:
    """values: [N], 0 or 1. Their mean, and its 95% interval (Wilson 1927), which is right for shares near 0 and 1."""
    n, p, z = len(values), float(values.mean()), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def share(values: np.ndarray) -> str:
    """In percent: Wilson's interval where each picture is right or wrong, else the bootstrap's."""
    interval = wilson if np.isin(values, (0, 1)).all() else mean_interval
    mean, low, high = (100 * value for value in interval(values))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def change(values: np.ndarray) -> str:
    """In points."""
    mean, low, high = (100 * value for value in mean_interval(values))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def train(run: Path, *arguments: str) -> Path:
    """The model of a run, which is made unless it is there. arguments: those of `mmalign train`."""
    if not (run / "model").is_dir():
        command = [sys.executable, "-m", "mmalign", "train", *arguments, "--out", str(run)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return run / "model"


def options(description: str | None) -> argparse.ArgumentParser:
    """--work and --seeds. OMP_NUM_THREADS sets the threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


def _split(items: Sequence, size: int) -> list[Sequence]:
    items = list(items)
    return [items[start : start + size] for start in range(0, len(items), size)]
