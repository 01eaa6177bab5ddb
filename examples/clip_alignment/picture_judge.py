"""Which of two pictures is damaged less, by clip-lite, after the recipe picture-judge, and by a rule of sharpness.

    python picture_judge.py --work work --seeds 0 1 2

The recipe learns rankings of bundled photographs and drawings under blur, noise, compression and loss of colour.
Measured on other photographs under these four, and under two kinds that it never learns from: squares and fading. A
photograph has one ranking a kind, the clean picture and three damages, so six pairs; the share in the right order is
averaged over its kinds, and intervals are of a bootstrap over photographs. The rule prefers the picture whose Laplacian
has the larger variance. Zero-shot is of 500 drawings of OpenMoji among their names.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from held_out import CLIP_LITE, Encoder, Picture, change, named, openmoji, options, photographs, share, table, train
from mmalign_data.damaged import DAMAGES, PROMPT, damaged
from PIL import Image

RECIPE = "picture-judge"
LEARNT, NEW = ("blur", "noise", "compression", "colour"), ("pixels", "fading")
LEVELS = 3
Score = Callable[[Sequence[Image.Image]], np.ndarray]


def main() -> None:
    given = options(__doc__).parse_args()
    photos, drawings = photographs(given.work), openmoji(given.work, 500)
    start = Encoder(CLIP_LITE)
    before, clean = by_damage(photos, judge(start)), named(start, drawings)
    rows = [row("sharpness rule", by_damage(photos, sharpness), "")]
    rows.append(row("clip-lite", before, share(clean)))
    after, kept = [], []
    for seed in given.seeds:
        encoder = Encoder(train(given.work / f"judge-{seed}", "-c", RECIPE, "--seed", str(seed)))
        after.append(by_damage(photos, judge(encoder)))
        kept.append(named(encoder, drawings))
        rows.append(row(f"reward, seed {seed}", after[-1], f"{share(kept[-1])}; {change(kept[-1] - clean)}"))
    means = {damage: np.mean([values[damage] for values in after], axis=0) for damage in DAMAGES}
    zero_shot = np.mean(kept, axis=0)
    rows.append(row("reward, mean", means, f"{share(zero_shot)}; {change(zero_shot - clean)}"))
    gains = {damage: means[damage] - before[damage] for damage in DAMAGES}
    rows.append(row("mean less clip-lite", gains, "", change))
    print(table(["", "the four learnt", "the two new", *LEARNT, *NEW, "zero-shot"], rows))


def row(title: str, values: dict[str, np.ndarray], zero_shot: str, say: Callable[..., str] = share) -> list[str]:
    over = (np.mean([values[damage] for damage in damages], axis=0) for damages in (LEARNT, NEW))
    return [title, *map(say, over), *(say(values[damage]) for damage in (*LEARNT, *NEW)), zero_shot]


def by_damage(photos: Sequence[Picture], score: Score) -> dict[str, np.ndarray]:
    """Kind of damage -> [N], the share of a photograph's pairs that are in the right order; a tie is half right."""
    clean = score([photo.image for photo in photos])
    found = {}
    for damage in DAMAGES:
        levels = [score(worse(photos, damage, level / LEVELS)) for level in range(1, LEVELS + 1)]
        pairs = combinations([clean, *levels], 2)
        found[damage] = np.mean([(first > second) + 0.5 * (first == second) for first, second in pairs], axis=0)
    return found


def worse(photos: Sequence[Picture], damage: str, strength: float) -> list[Image.Image]:
    return [damaged(photo.image, damage, strength, f"{photo.name}:{n}") for n, photo in enumerate(photos)]


def judge(encoder: Encoder) -> Score:
    text = encoder.texts([PROMPT])[0]
    return lambda images: encoder.images(images) @ text


def sharpness(images: Sequence[Image.Image]) -> np.ndarray:
    """[N]: the variance of the Laplacian of the grey picture."""
    values = []
    for image in images:
        grey = np.asarray(image.convert("L"), dtype=float)
        edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
        values.append(edges.var())
    return np.array(values)


if __name__ == "__main__":
    main()
