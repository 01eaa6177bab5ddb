"""A large object with a small one pasted over it, named by clip-lite and after dpo and sft: `python pasted_objects.py`.

    python pasted_objects.py --work work --seeds 0 1 2   # the recipe pasted-objects, and sft on the same pictures
    python pasted_objects.py --work work --fooled        # by what is clip-lite fooled at all?

Both methods learn from the same pictures in as many steps; dpo is told what the pasted object is, sft is not. Measured
on drawings of OpenMoji with another one pasted into a corner, on the recipe's own held-out names, and on photographs.

named       the large object's name is the best of all names
fooled      the pasted object's name is
before it   the large object's name is better than the pasted one's
clean       named, with nothing pasted: zero-shot
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from held_out import (
    CLIP_LITE,
    DRAWING,
    PHOTOGRAPH,
    Encoder,
    Picture,
    change,
    openmoji,
    options,
    photographs,
    share,
    table,
    train,
)
from mmalign_data.distracted import DistractedEmoji, DistractedEmojiConfig, pasted_into, written_across
from PIL import Image

from mmalign.data.images import open_image
from mmalign.hashing import stable_hash

RECIPE = "pasted-objects"
METHODS = {"dpo": (), "sft": ("--objective", "sft", "--set", "dataset.kind=completion")}
SHARES = (0.2, 0.3, 0.4, 0.5)  # sides of the pasted picture
KIN = 0.5  # cosine of two names that might both be right


class Pair(NamedTuple):
    """A picture, the text for what it shows, and that for what was put over it."""

    image: Image.Image
    own: str
    other: str


class Figures(NamedTuple):
    """[N] each, 0 or 1: see the module."""

    named: np.ndarray
    fooled: np.ndarray
    before: np.ndarray
    clean: np.ndarray


class Pictures(NamedTuple):
    """The same ones twice: with another object over each, and without."""

    pasted: list[Pair]
    clean: list[Pair]


Put = Callable[[Image.Image, Picture, int], Image.Image]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--fooled", action="store_true", help="words and drawings of four sizes on clip-lite; no training"
    )
    given = parser.parse_args()
    start, drawings, photos = Encoder(CLIP_LITE), openmoji(given.work, 500), photographs(given.work)
    if given.fooled:
        print(fooled(start, {"OpenMoji": (drawings, DRAWING), "photographs": (photos, PHOTOGRAPH)}))
        return
    sets = {
        "OpenMoji": both(start, drawings, DRAWING),
        "photographs": both(start, photos, PHOTOGRAPH),
        "held-out names": held_out_names(),
    }
    before = {title: measured(start, pictures) for title, pictures in sets.items()}
    after: dict[str, dict[str, list[Figures]]] = {title: {method: [] for method in METHODS} for title in sets}
    for method, extra in METHODS.items():
        for seed in given.seeds:
            run = given.work / f"pasted-{method}-{seed}"
            encoder = Encoder(train(run, "-c", RECIPE, *extra, "--seed", str(seed)))
            for title, pictures in sets.items():
                after[title][method].append(measured(encoder, pictures))
    for title, methods in after.items():
        rows = [["clip-lite", *map(share, before[title])]]
        for method, runs in methods.items():
            names = [f"{method}, seed {seed}" for seed in given.seeds]
            rows += [[name, *map(share, run)] for name, run in zip(names, runs, strict=True)]
            rows.append([f"{method}, mean, change", *changes(mean(runs), before[title])])
        rows.append(["dpo less sft, means", *changes(mean(methods["dpo"]), mean(methods["sft"]))])
        print(table([title, "named", "fooled", "before it", "clean"], rows), end="\n\n")


def both(encoder: Encoder, pictures: Sequence[Picture], template: str) -> Pictures:
    others = partners(encoder, pictures)
    ways: tuple[Put, Put] = (paste(0.5), lambda image, *_: image)
    return Pictures(*(changed(pictures, others, put, template) for put in ways))


def held_out_names() -> Pictures:
    """Of the recipe's data."""
    return Pictures(validation("drawing"), validation("none"))


def measured(encoder: Encoder, pictures: Pictures) -> Figures:
    return figures(encoder, pictures.pasted)._replace(clean=figures(encoder, pictures.clean).named)


def changes(after: Figures, before: Figures) -> list[str]:
    return [change(one - other) for one, other in zip(after, before, strict=True)]


def mean(each: Sequence[Figures]) -> Figures:
    """Over the seeds, of each picture."""
    return Figures(*(np.mean([values[column] for values in each], axis=0) for column in range(len(Figures._fields))))


def figures(encoder: Encoder, pairs: Sequence[Pair]) -> Figures:
    """Among the texts of all pairs; `clean` is left at 0."""
    texts = list(dict.fromkeys(pair.own for pair in pairs))
    own = np.array([texts.index(pair.own) for pair in pairs])
    other = np.array([texts.index(pair.other) for pair in pairs])
    scores = encoder.images([pair.image for pair in pairs]) @ encoder.texts(texts).T
    best, row = scores.argmax(1), np.arange(len(pairs))
    columns = (best == own, best == other, scores[row, own] > scores[row, other], np.zeros(len(pairs)))
    return Figures(*(column.astype(float) for column in columns))


def partners(encoder: Encoder, pictures: Sequence[Picture]) -> list[Picture]:
    """For each picture another one, by a hash of the name, whose name clip-lite does not hold for nearly the same."""
    text = encoder.texts([DRAWING.format(picture.name) for picture in pictures])
    likeness = text @ text.T
    order = sorted(range(len(pictures)), key=lambda place: stable_hash("partner", place, pictures[place].name))
    chosen = []
    for place in range(len(pictures)):
        start = stable_hash("first partner", place, pictures[place].name) % len(order)
        turned = (*order[start:], *order[:start])
        chosen.append(pictures[next(other for other in turned if likeness[place, other] < KIN)])
    return chosen


def paste(size: float) -> Put:
    def put(image: Image.Image, other: Picture, number: int) -> Image.Image:
        canvas = image.copy()
        pasted_into(canvas, other.image, size, stable_hash("corner", number, other.name) % 4)
        return canvas

    return put


def changed(pictures: Sequence[Picture], others: Sequence[Picture], put: Put, template: str) -> list[Pair]:
    return [
        Pair(put(picture.image, other, number), template.format(picture.name), template.format(other.name))
        for number, (picture, other) in enumerate(zip(pictures, others, strict=True))
    ]


def validation(distraction: Literal["drawing", "none"]) -> list[Pair]:
    part = DistractedEmoji.build(DistractedEmojiConfig(distraction=distraction), "validation")
    examples = [part[index] for index in range(len(part))]
    return [Pair(open_image(example.prompt), example.chosen, example.rejected) for example in examples]


def fooled(encoder: Encoder, sets: dict[str, tuple[list[Picture], str]]) -> str:
    ways: dict[str, Put] = {
        "nothing": lambda image, *_: image,
        "a word of no meaning, xqzvbr": lambda image, *_: written_across(image, "xqzvbr"),
        "the other's name": lambda image, other, _: written_across(image, other.name),
        **{f"the other, side {size}": paste(size) for size in SHARES},
    }
    rows = []
    others = {title: partners(encoder, pictures) for title, (pictures, _) in sets.items()}
    for way, put in ways.items():
        pairs = (changed(pictures, others[title], put, template) for title, (pictures, template) in sets.items())
        each = [figures(encoder, one) for one in pairs]
        rows.append([way, *(share(column) for values in each for column in values[:3])])
    return table(["over it", *(f"{title}: {w}" for title in sets for w in ("named", "fooled", "before it"))], rows)


if __name__ == "__main__":
    main()
