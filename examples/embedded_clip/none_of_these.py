"""What tells "none of these labels" from a right one, and from which value on: `python none_of_these.py clip-lite`.

Every picture is asked twice, among 2 to 32 labels "a photo of a ...": once with its own name among them, once without.
Answers that are right in the first case should be kept, all answers of the second be "none of these". Four statistics
are compared by AUROC on half of the names; the threshold of the cosine is the one with the largest difference of the
two shares there. The other half of the names, of labels and of pictures, then says how well it holds.

softmax     the best label's share
cosine      the best label's cosine
- generic   that cosine less the one of "a photo of something"
z           that cosine less the mean over ImageNet's 1,000 names, in standard deviations of these

Pictures: photographs and drawings of GCompris (Debian `gcompris-qt-data`), photographs of scikit-image and
scikit-learn, drawings of OpenMoji; clip-lite was trained on none of them. Names nearer than cosine 0.5 to a picture's
own (cat, kitten) are no wrong labels. Needs what `evaluate.py` needs, and Debian's `apt-get` and `dpkg-deb`.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
from evaluate import PHOTOS, Model
from mmalign_zero_shot.separation import Separation
from PIL import Image
from prepare_data import place
from sources import HELD_OUT_STYLE, Sources

sys.path.append(str(Path(__file__).parents[1] / "embedded_data"))
from prepare_photos import DEBIAN, resources

TEMPLATE, GENERIC = "a photo of a {}", "a photo of something"
NUM_LABELS, DRAWS, KIN = (2, 4, 8, 16, 32), 5, 0.5
STATISTICS = ("softmax", "cosine", "- generic", "z")
# Archive of GCompris -> pictures, as file or file=name
PICTURES = {
    "erase": (
        "alpaca bee butterfly calf camels=camel caterpillar chamaeleon=chameleon cheetah crab dolphin "
        "flying_fox=fruit_bat gibbon giraffe goat gorilla gosling heron horse kingfisher kitten "
        "long_nosed_monkey=proboscis_monkey macaque meerkats=meerkat northern_harrier=hawk nubian_ibex=ibex penguin "
        "pika red_panda rhinoceros spoonbills=spoonbill squirrel swans=swan toucan"
    ),
    "explore_farm_animals": ("cat chicken cow dog duck horse owl pig sheep"),
    "explore_world_animals": (
        "bison chameleon crocodile dragon=Komodo_dragon giraffe hedgehog jaguar kangaroo koala lemur moose "
        "panda=giant_panda polar_bear scarlet_macaw=parrot"
    ),
    "categorization": (
        "fish1=fish fish12=fish fish16=fish fish5=fish fish9=clownfish fish25=goldfish baseball blackslate=blackboard "
        "bucket buffetset=teacup bulb=light_bulb chair cup=teacup erasers=eraser igloo pan=frying_pan pencil pillow "
        "plate spoons=spoon volleyball weighingMachine=scale dam1=dam dam3=dam dam5=dam solar4=solar_panel "
        "solar5=solar_panel solar7=solar_panel solar8=solar_panel windmill windmill1=windmill windmill13=windmill "
        "windmill6=wind_turbine windmill9=windmill cuttingTool=pliers hammer1=hammer hammer2=hammer hammer6=hammer "
        "hammer7=hammer hammer9=hammer measuringTape1=measuring_tape measuringTape3=measuring_tape "
        "measuringTape5=measuring_tape measuringTape6=measuring_tape multimeter1=multimeter multimeter2=multimeter "
        "multimeter3=multimeter nailCutter=nail_clipper plier1=pliers plier2=pliers plier3=pliers scissors1=scissors "
        "scissors2=scissors scissors3=scissors scissors4=scissors screwDriver=screwdriver screwDriver1=screwdriver "
        "screwDriver2=screwdriver sickle spray=spray_bottle tweezer=tweezers tweezer1=tweezers wrench wrench1=wrench "
        "arcDeTriomphe=triumphal_arch colosseum=amphitheater greatPyramid=pyramid tajMahal=mausoleum parthenon=temple"
    ),
    "lang": (
        "apple apricot bear bee beetle bird brain bull butterfly camel cat chicken coconut cow dog dolphin dragon "
        "duck fish foot fox frog giraffe gorilla hand hedgehog hippopotamus horse kangaroo kiwi lemon lizard melon "
        "mosquito mouse orange owl panda=giant_panda peach pear pig plum rabbit raspberry rhinoceros shark sheep "
        "snail snake spider strawberry turkey turtle whale wolf"
    ),
}


class Picture(NamedTuple):
    """kind: "photographs", "drawings" or "emoji"."""

    kind: str
    name: str
    image: Image.Image


class Half(NamedTuple):
    """One half of the names. pictures: [N, D], of `kinds` [N]; text: [T, D], of labels; own: [N], a picture's label."""

    kinds: np.ndarray
    pictures: np.ndarray
    own: np.ndarray
    text: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("work"))
    arguments = parser.parse_args()
    model, sources = Model(arguments.folder), Sources(arguments.work)
    pictures = [*gcompris(arguments.work), *samples(sources), *emoji(sources)]
    embedded = model.images([picture.image for picture in pictures])
    names = list(dict.fromkeys([*(picture.name for picture in pictures), *sources.everyday]))
    text = model.texts([TEMPLATE.format(name) for name in names])
    bank = model.texts([TEMPLATE.format(name) for name in dict.fromkeys(open_clip.IMAGENET_CLASSNAMES)])
    generic = model.texts([GENERIC])[0]
    scale = model.model.logit_scale.exp().item()
    halves = {}
    for half, title in enumerate(("calibration", "held out")):
        chosen = [row for row, picture in enumerate(pictures) if side(picture.name) == half]
        pool = [column for column, name in enumerate(names) if side(name) == half]
        own = np.array([pool.index(names.index(pictures[row].name)) for row in chosen])
        halves[title] = Half(np.array([pictures[row].kind for row in chosen]), embedded[chosen], own, text[pool])
    found = {title: ask(half, bank, generic, scale) for title, half in halves.items()}
    results = {title: {s: areas(kinds[s]) for s in STATISTICS} for title, kinds in found.items()}
    threshold = balanced(found["calibration"]["cosine"])
    shares = {title: {k: s.shares(threshold) for k, s in kinds["cosine"].items()} for title, kinds in found.items()}
    print(
        json.dumps(
            {"auroc": results, "min_cosine": threshold, "right answers kept, named without their label": shares},
            indent=2,
        )
    )


def side(name: str) -> int:
    """0 for calibration, 1 held out: by the name, so that neither pictures nor labels are shared."""
    return hashlib.sha256(name.lower().encode()).digest()[0] % 2


def gcompris(work: Path) -> Iterator[Picture]:
    target = work / "packages" / "gcompris"
    if not target.exists():
        target.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-q", DEBIAN], check=True, cwd=target, stdout=sys.stderr)
        subprocess.run(["dpkg-deb", "-x", str(next(target.glob("*.deb"))), str(target)], check=True)
    for archive, entries in PICTURES.items():
        files = resources((target / f"usr/share/gcompris-qt/rcc/{archive}.rcc").read_bytes())
        by_stem = {Path(path).stem: data for path, data in sorted(files.items()) if path.endswith(".webp")}
        for entry in entries.split():
            stem, _, name = entry.partition("=")
            kind = "drawings" if archive == "lang" else "photographs"
            yield Picture(kind, (name or stem).replace("_", " "), on_white(Image.open(io.BytesIO(by_stem[stem]))))


def samples(sources: Sources) -> Iterator[Picture]:
    folders = [sources.folder("skimage"), sources.folder("sklearn")]
    for path, name in PHOTOS.items():
        file = next(folder / path for folder in folders if (folder / path).exists())
        yield Picture("photographs", name, on_white(Image.open(file)))


def emoji(sources: Sources) -> Iterator[Picture]:
    for item in sources.emoji:
        picture = sources.picture(item, HELD_OUT_STYLE)
        if picture is not None:
            yield Picture("emoji", item.names[0], place(picture, 0, ""))


def on_white(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB")


def ask(half: Half, bank: np.ndarray, generic: np.ndarray, scale: float) -> dict[str, dict[str, Separation]]:
    """Statistic -> kind of picture -> its values of right answers, and of answers without the picture's own name."""
    rng = np.random.default_rng(0)
    found = {name: {str(kind): Separation() for kind in np.unique(half.kinds)} for name in STATISTICS}
    for kind, picture, own in zip(half.kinds, half.pictures, half.own, strict=True):
        wrong = np.flatnonzero(half.text @ half.text[own] < KIN)
        everything, other = bank @ picture, float(generic @ picture)
        for size in np.repeat(NUM_LABELS, DRAWS):
            without = half.text[rng.choice(wrong, size, replace=False)] @ picture
            with_own = np.append(without[1:], half.text[own] @ picture)
            for name in STATISTICS:
                separation = found[name][str(kind)]
                separation.absent.append(statistic(name, without, everything, other, scale))
                if with_own.argmax() == size - 1:  # named right
                    separation.present.append(statistic(name, with_own, everything, other, scale))
    return found


def statistic(name: str, cosines: np.ndarray, bank: np.ndarray, generic: float, scale: float) -> float:
    best = float(cosines.max())
    if name == "softmax":
        return float(1 / np.exp(scale * (cosines - best)).sum())
    less, unit = {"cosine": (0.0, 1.0), "- generic": (generic, 1.0), "z": (bank.mean(), bank.std())}[name]
    return float((best - less) / unit)


def areas(kinds: dict[str, Separation]) -> dict[str, float]:
    return {kind: round(separation.summary()["auroc"], 3) for kind, separation in kinds.items()}


def balanced(kinds: dict[str, Separation]) -> float:
    """The hundredth with the largest difference of shares, in the mean over the kinds of pictures."""

    def difference(threshold: float) -> float:
        return sum(kept - wrongly for kept, wrongly in (s.shares(threshold) for s in kinds.values()))

    return round(max(np.arange(0.0, 0.6, 0.01), key=difference), 2)


if __name__ == "__main__":
    main()
