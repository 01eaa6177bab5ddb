"""Held-out measurements of a clip-lite folder: `python evaluate.py clip-lite --work work [--template "a {}"]`.

openmoji   a drawing style that no stage saw, each picture against the names of 74 emoji (the names were seen)
rows       the 1,000 ImageNet names against Lite0's classifier rows, so what photographs would meet: has it forgotten?
common     common things, all of them trained on: does the student choose among 74 of them as its teacher would?
nouns      nouns left out by `prepare_data.py --hold-out`: is a label nearest to its own target among all of theirs?
photos     scikit-image's and scikit-learn's sample photographs among 74 everyday labels
padding    the largest difference between a text encoded alone, unpadded, and inside a padded batch

Everything goes through open_clip alone (`local-dir:`). Pictures are photographs or drawings on plain white.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from prepare_data import place
from sources import HELD_OUT_STYLE, Sources
from teacher import unit

NUM_CHOICES = 74
PHOTOS = {
    "skimage/data/chelsea.png": "cat",
    "skimage/data/coffee.png": "cup of coffee",
    "skimage/data/rocket.jpg": "rocket",
    "skimage/data/motorcycle_left.png": "motorcycle",
    "skimage/data/coins.png": "coins",
    "skimage/data/clock_motion.png": "clock",
    "skimage/data/astronaut.png": "astronaut",
    "skimage/data/horse.png": "horse",
    "skimage/data/brick.png": "brick wall",
    "skimage/data/page.png": "page of text",
    "sklearn/datasets/images/china.jpg": "temple",
    "sklearn/datasets/images/flower.jpg": "flower",
}
DISTRACTORS = (
    "hammer,scissors,spoon,teapot,bicycle,dog,chair,table,lamp,umbrella,backpack,shoe,hat,guitar,piano,violin,drum,phone,"
    "laptop,keyboard,printer,television,refrigerator,oven,toaster,frying pan,knife,fork,plate,bottle,wine glass,apple,"
    "banana,orange,strawberry,carrot,bread,cheese,cake,pizza,car,bus,train,airplane,boat,helicopter,tree,cactus,mushroom,"
    "bird,fish,butterfly,elephant,key,padlock,candle,book,pencil,ruler,stapler,wallet,toothbrush"
).split(",")


class Model:
    """A folder in open_clip's format, with a classifier from texts."""

    def __init__(self, folder: Path) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        parts = [self.model.encode_text(self.tokenizer(list(texts[i : i + 64]))) for i in range(0, len(texts), 64)]
        return unit(torch.cat(parts).numpy())

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        parts = [
            self.model.encode_image(torch.stack([self.preprocess(image) for image in images[i : i + 32]]))
            for i in range(0, len(images), 32)
        ]
        return unit(torch.cat(parts).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--template", default="a photo of a {}")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, sources = Model(arguments.folder), Sources(arguments.work)
    names, pictures = openmoji(model, sources)
    labels = model.texts([arguments.template.format(name) for name in names])
    results = {
        "openmoji": chance_of_being_first(pictures @ labels.T),
        "common": fidelity(model, arguments.work / "common.npz", pictures, arguments.template),
        "rows": rows(model, sources, arguments.work, arguments.template),
        "photos": photos(model, sources, arguments.template),
        "padding": padding(model),
    }
    held_out = arguments.work / "held_out.npz"
    if held_out.exists() and len(np.load(held_out)["words"]) > 1:
        results["nouns"] = held_out_nouns(model, held_out, arguments.template)
    print(json.dumps(results, indent=2))


def openmoji(model: Model, sources: Sources) -> tuple[list[str], np.ndarray]:
    """Names [N] and embeddings [N, D] of the drawings that no stage saw."""
    pictured = [(emoji, sources.picture(emoji, HELD_OUT_STYLE)) for emoji in sources.emoji]
    pairs = [(emoji.names[0], place(picture, 0, "")) for emoji, picture in pictured if picture is not None]
    return [name for name, _ in pairs], model.images([picture for _, picture in pairs])


def rows(model: Model, sources: Sources, work: Path, template: str) -> dict[str, float]:
    labels = model.texts([template.format(name) for name, _, _ in sources.imagenet])
    with np.load(work / "space.npz") as space:
        return chance_of_being_first(unit(space["rows"]) @ labels.T)


def fidelity(model: Model, path: Path, pictures: np.ndarray, template: str) -> dict[str, float]:
    """`agreement`: of 74 names drawn at random, teacher and student give a drawing the same one; three draws each."""
    words, targets = read_targets(path)
    labels = model.texts([template.format(word) for word in words])
    rng = np.random.default_rng(0)
    same = []
    for picture in np.repeat(pictures, 3, axis=0):
        drawn = rng.choice(len(words), NUM_CHOICES, replace=False)
        same.append((targets[drawn] @ picture).argmax() == (labels[drawn] @ picture).argmax())
    own = np.einsum("nd,nd->n", labels, targets)
    ranks = chance_of_being_first(targets @ labels.T)
    return {"cosine": float(own.mean()), "agreement": float(np.mean(same)), **ranks}


def held_out_nouns(model: Model, path: Path, template: str) -> dict[str, float]:
    words, targets = read_targets(path)
    labels = model.texts([template.format(word) for word in words])
    own = np.einsum("nd,nd->n", labels, targets)
    return {"cosine": float(own.mean()), **chance_of_being_first(targets @ labels.T)}


def read_targets(path: Path) -> tuple[list[str], np.ndarray]:
    with np.load(path) as file:
        return [str(word) for word in file["words"]], file["targets"].astype(np.float32)


def photos(model: Model, sources: Sources, template: str) -> dict[str, object]:
    folders = [sources.folder("skimage"), sources.folder("sklearn")]
    paths = {name: next(f / name for f in folders if (f / name).exists()) for name in PHOTOS}
    names = [*dict.fromkeys(PHOTOS.values()), *DISTRACTORS]
    assert len(names) == NUM_CHOICES
    labels = model.texts([template.format(name) for name in names])
    scores = model.images([Image.open(path).convert("RGB") for path in paths.values()]) @ labels.T
    best = np.argsort(-scores, axis=1)[:, :5]
    wanted = np.array([names.index(name) for name in PHOTOS.values()])
    found = {Path(path).name: [names[i] for i in row[:3]] for path, row in zip(PHOTOS, best, strict=True)}
    top5 = (best == wanted[:, None]).any(1).mean()
    return {"top1": float((best[:, 0] == wanted).mean()), "top5": float(top5), "found": found}


def padding(model: Model) -> float:
    texts = ["a hammer", "a photo of a very large cheese grater on a wooden table.", "cat"]
    ids = model.tokenizer(texts)
    ends = ids.argmax(1)
    worst = 0.0
    with torch.inference_mode():
        together = model.model.encode_text(ids)
        for row, end in enumerate(ends.tolist()):
            short = ids[row : row + 1, : end + 1]
            x = model.model.token_embedding(short) + model.model.positional_embedding[: end + 1]
            x = model.model.transformer(x, attn_mask=model.model.attn_mask[: end + 1, : end + 1])
            alone = model.model.ln_final(x)[0, -1] @ model.model.text_projection
            worst = max(worst, float((alone - together[row]).abs().max()))
    return worst


def chance_of_being_first(scores: np.ndarray) -> dict[str, float]:
    """scores [N, N], right on the diagonal: the chance to be first, or in the first five, of 74 drawn from N."""
    from scipy.stats import hypergeom

    num = len(scores)
    better = (scores > np.diag(scores)[:, None]).sum(1)
    drawn = {
        name: hypergeom.cdf(k - 1, num - 1, better, NUM_CHOICES - 1).mean() for name, k in (("top1", 1), ("top5", 5))
    }
    return {name: float(value) for name, value in drawn.items()}


if __name__ == "__main__":
    main()
