"""Everything that the two training stages of clip-lite need, in one folder: `python prepare_data.py --work work`.

    work/packages/      what pip and npm fetched            work/start/     the folder that stage one starts from
    work/targets.npz    nouns, weights, target embeddings   work/anchors.npy
    work/emoji/         pictures and train.jsonl            work/{space,common,held_out}.npz for evaluate.py

Needs mmalign's own dependencies, scipy, resvg-py and npm. About 30 minutes on two cores; each step keeps its result in
work/cache, so that a second run goes on where the first one stopped. --hold-out 0.02 leaves nouns out, to test with.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sources import PICTURE_SIZE, TRAINING_STYLES, Emoji, Sources
from start import train_tokenizer, write_start
from teacher import Space, Teacher, Tree, Words, unit
from words import choose_words, common_things, define, held_out, noun_of, tokenizer_corpus

NUM_COMMON = 2000
VIEWS = 3  # of each drawing: one centred on plain white, the others placed at random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--hold-out", type=float, default=0.0, help="share of the pictured things left out")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    work, cache = arguments.work, arguments.work / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    sources = Sources(work)
    lite0 = read_lite0(sources)

    words, weights = choose_words(sources)
    names = kept(cache / "names.npy", lambda: embed(sources, [f"a photo of a {word}" for word in words]))
    glosses = kept(cache / "glosses.npy", lambda: embed(sources, [define(sources, word) for word in words]))
    pictures = {s: kept(cache / f"{s}.npy", lambda s=s: features(sources, s, lite0)) for s in TRAINING_STYLES}
    present = {style: np.abs(values).sum((1, 2)) > 0 for style, values in pictures.items()}

    space = Space.fit(pictures, present, {name: tensor.numpy() for name, tensor in lite0.items()})
    nouns = [noun_of(sources, word) for word in words]
    synsets = [noun.synset if noun else None for noun in nouns]
    teacher = make_teacher(sources, space)
    targets = teacher.targets(Words(words, names, glosses, synsets))
    held = held_out(sources, words, arguments.hold_out)
    seen = [word for word, out in zip(words, held, strict=True) if not out]
    train_tokenizer(tokenizer_corpus(sources, seen, weights[~held]), work / "tokenizer")
    basis = write_start(work / "start", work / "tokenizer", space, seen, weights[~held], targets[~held], lite0)
    goals = unit(targets @ basis.T).astype(np.float16)
    np.savez(work / "targets.npz", words=np.array(seen), weights=weights[~held], targets=goals[~held])
    common = np.argsort(-weights * (common_things(sources, words) & ~held), kind="stable")[:NUM_COMMON]
    np.savez(work / "common.npz", words=np.array(words)[common], targets=goals[common])
    np.savez(work / "held_out.npz", words=np.array(words)[held], targets=goals[held])
    np.save(work / "anchors.npy", unit(np.concatenate([space.rows, space.emoji]) @ basis.T).astype(np.float32))
    np.savez(work / "space.npz", rows=unit(space.rows @ basis.T))
    write_emoji(sources, work / "emoji")
    print(f"{len(words):,} nouns, {len(sources.emoji):,} emoji in {len(TRAINING_STYLES)} styles -> {work}")


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not path.exists():
        np.save(path, make().astype(np.float16))
    return np.load(path).astype(np.float32)


def read_lite0(sources: Sources) -> dict:
    """timm's `tf_efficientnet_lite0`; the package's tensors come in the same order under other names."""
    import timm
    import torch

    (path,) = sources.folder("lite0").rglob("*.pth")
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    names = timm.create_model("tf_efficientnet_lite0").state_dict().keys()
    return dict(zip(names, tensors, strict=True))


def embed(sources: Sources, texts: Sequence[str], batch: int = 256) -> np.ndarray:
    """MiniLM's unit mean-pooled embeddings [M, 384]."""
    import torch
    from transformers import AutoTokenizer, BertModel

    (folder,) = (path.parent for path in sources.folder("minilm").rglob("model.safetensors"))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    order = np.argsort([len(text) for text in texts], kind="stable")
    out = np.zeros((len(texts), 384), np.float32)
    for start in range(0, len(texts), batch):
        rows = order[start : start + batch]
        tokens = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        out[rows] = unit(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return out


def features(sources: Sources, style: str, lite0: dict) -> np.ndarray:
    """[N, VIEWS, 1280]: Lite0's pooled features of each emoji; zeros where the style lacks it."""
    import timm
    import torch

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(lite0)
    out = np.zeros((len(sources.emoji), VIEWS, 1280), np.float32)
    for row, emoji in enumerate(sources.emoji):
        picture = sources.picture(emoji, style)
        if picture is None:
            continue
        views = np.stack([np.asarray(place(picture, view, f"{style} {emoji.code} {view}")) for view in range(VIEWS)])
        pixels = torch.from_numpy(views).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with torch.inference_mode():
            out[row] = model.forward_head(model.forward_features(pixels), pre_logits=True).numpy()
    return out


def place(picture: Image.Image, view: int, seed: str) -> Image.Image:
    """View 0: centred on white at 85%. Others: scale, tilt, mirror and place at random, 3 in 10 on a plain colour."""
    rng = random.Random(seed)
    picture = picture.crop(picture.getbbox() or (0, 0, *picture.size))
    scale = PICTURE_SIZE * (0.85 if view == 0 else rng.uniform(0.5, 1.0)) / max(picture.size)
    picture = picture.resize([max(1, int(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
    colour, shift = (255, 255, 255), (0.5, 0.5)
    if view:
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
        shift = (rng.random(), rng.random())
        if rng.random() < 0.3:
            colour = tuple(rng.randrange(256) for _ in range(3))
    canvas = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), colour)
    free = [max(0, PICTURE_SIZE - side) for side in picture.size]
    canvas.paste(picture, (int(free[0] * shift[0]), int(free[1] * shift[1])), picture)
    return canvas


def make_teacher(sources: Sources, space: Space) -> Teacher:
    classes, emoji = sources.imagenet, sources.emoji
    rows = Words(
        [name for name, _, _ in classes],
        embed(sources, [f"a photo of a {name}" for name, _, _ in classes]),
        embed(sources, [f"{name}: {definition}" for name, definition, _ in classes]),
        [synset for _, _, synset in classes],
    )
    nouns = [
        sources.nouns.get(e.names[0].lower()) or sources.nouns.get(e.names[0].lower().removesuffix("s")) for e in emoji
    ]
    texts = [
        define(sources, e.names[0]) if n else ", ".join((e.names[0], *e.tags))
        for e, n in zip(emoji, nouns, strict=True)
    ]
    pictographs = Words(
        [e.names[0] for e in emoji],
        embed(sources, [f"a photo of a {e.names[0]}" for e in emoji]),
        embed(sources, texts),
        [noun.synset if noun else None for noun in nouns],
    )
    exact_rows = {name.lower(): i for i, (name, _, _) in reversed(list(enumerate(classes)))}
    exact_emoji = {name.lower(): i for i, e in reversed(list(enumerate(emoji))) for name in e.names}
    return Teacher(space, Tree(sources.synsets), rows, pictographs, exact_rows, exact_emoji)


def write_emoji(sources: Sources, folder: Path) -> None:
    """Stage two's pairs: each drawing in two placements, named in a template; `group` joins the styles of one emoji."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w") as lines:
        for style in TRAINING_STYLES:
            (folder / style).mkdir(exist_ok=True)
            for emoji in sources.emoji:
                write_pairs(sources.picture(emoji, style), emoji, style, folder, lines, OPENAI_IMAGENET_TEMPLATES)


def write_pairs(picture: Image.Image | None, emoji: Emoji, style: str, folder: Path, lines, templates) -> None:
    for view in (0, 1) if picture else ():
        path = Path(style) / f"{emoji.code}-{view}.jpg"
        place(picture, view, f"pair {style} {emoji.code} {view}").save(folder / path, quality=92)
        rng = random.Random(f"{path}")
        name = rng.choice(emoji.names)
        text = f"a photo of a {name}" if rng.random() < 0.5 else rng.choice(templates)(name)
        lines.write(json.dumps({"image": str(path), "text": text, "group": emoji.code}) + "\n")


if __name__ == "__main__":
    main()
