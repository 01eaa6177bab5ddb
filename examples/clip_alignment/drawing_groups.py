"""Drawings sorted into nine groups by a bandit that hears only right or wrong, beside sft: `python drawing_groups.py`.

    python drawing_groups.py --work work --seeds 0 1 2

The recipe drawing-groups samples answers and scores them by exact-match (rloo); no label is in its loss. sft learns
the right answer of the same pictures, in the same order, as many steps. Measured on the names that training held out
(drawings of Noto, in the style that was trained on) and on 500 drawings of OpenMoji, a style that neither clip-lite
nor a run here has seen; most of their names were trained on. Zero-shot is of 500 other drawings of OpenMoji, things
among their names. The second table is of rloo's training: the share of sampled answers that were right, and their KL
from the start.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from held_out import CLIP_LITE, Encoder, Picture, change, named, openmoji, openmoji_groups, options, share, table, train
from mmalign_data.emoji import GROUPS, Emoji, EmojiConfig

from mmalign.data.images import open_image
from mmalign.train.layers import recipe_path

RECIPE = "drawing-groups"
SHARED = ("backbone", "train", "evaluation")  # sections of the recipe that sft takes over
ANSWERS = list(GROUPS.values())
SHOWN_STEPS = 5  # rows of the second table


def main() -> None:
    given = options(__doc__).parse_args()
    sets = {"held-out names": validation(), "OpenMoji": openmoji_groups(given.work, 500)}
    things, start = openmoji(given.work, 500), Encoder(CLIP_LITE)
    before, clean = {title: sorted_right(start, pictures) for title, pictures in sets.items()}, named(start, things)
    rows = [["clip-lite", *(share(before[title]) for title in sets), share(clean)]]
    for method in ("rloo", "sft"):
        after: dict[str, list[np.ndarray]] = {title: [] for title in sets}
        kept = []
        for seed in given.seeds:
            run = given.work / f"groups-{method}-{seed}"
            how = ("-c", RECIPE) if method == "rloo" else supervised(given.work)
            encoder = Encoder(train(run, *how, "--seed", str(seed)))
            kept.append(named(encoder, things))
            for title, pictures in sets.items():
                after[title].append(sorted_right(encoder, pictures))
            right = (share(after[title][-1]) for title in sets)
            rows.append([f"{method}, seed {seed}", *right, f"{share(kept[-1])}; {change(kept[-1] - clean)}"])
        means = {title: np.mean(values, axis=0) for title, values in after.items()}
        zero_shot = np.mean(kept, axis=0)
        gains = (f"{share(means[title])}; {change(means[title] - before[title])}" for title in sets)
        rows.append([f"{method}, mean", *gains, f"{share(zero_shot)}; {change(zero_shot - clean)}"])
    print(table(["", *sets, "zero-shot"], rows), end="\n\n")
    print(over_steps([given.work / f"groups-rloo-{seed}" for seed in given.seeds]))


def supervised(work: Path) -> tuple[str, ...]:
    """The arguments for sft with the recipe's model, pictures, steps and learning rate."""
    path = recipe_path(RECIPE)
    assert path is not None
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = {"objective": "sft", "dataset": {"name": "emoji", "kind": "completion", "answers": "group"}}
    file = work / "drawing-groups-sft.yaml"
    file.write_text(yaml.safe_dump(config | {name: recipe[name] for name in SHARED}), encoding="utf-8")
    return "-c", str(file)


def validation() -> list[Picture]:
    """The recipe's held-out names; `name` is the answer."""
    part = Emoji.build(EmojiConfig(kind="prompt", answers="group"), "validation")
    assert part is not None
    examples = [part[index] for index in range(len(part))]
    return [Picture(example.solution, open_image(example.prompt)) for example in examples]


def sorted_right(encoder: Encoder, pictures: Sequence[Picture]) -> np.ndarray:
    """[N]: 1 where a picture gets its group."""
    own = np.array([ANSWERS.index(picture.name) for picture in pictures])
    best = (encoder.images([picture.image for picture in pictures]) @ encoder.texts(ANSWERS).T).argmax(1)
    return (best == own).astype(float)


def over_steps(runs: Sequence[Path]) -> str:
    """Score and KL of the answers sampled in training, each the mean of the steps up to the one shown."""
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    steps = [[record for record in each if "score" in record] for each in records]
    size = len(steps[0]) // SHOWN_STEPS
    rows = []
    for end in range(size, len(steps[0]) + 1, size):
        cells = []
        for name in ("score", "kl"):
            cells += [f"{np.mean([record[name] for record in each[end - size : end]]):.3f}" for each in steps]
        rows.append([f"{end - size + 1} to {end}", *cells])
    titles = [run.name.rpartition("-")[2] for run in runs]
    return table(["steps", *(f"{what}, seed {seed}" for what in ("right", "KL, nats") for seed in titles)], rows)


if __name__ == "__main__":
    main()
