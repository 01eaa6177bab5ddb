"""Zero-shot classification against transformers' pipeline: same architecture, same weights, same pictures and labels.

    python tests/benchmarks/zero_shot_vs_transformers.py --images 500 --repeats 3

A CLIP ViT-B/32 with random weights and CLIP's own tokens is saved once and loaded by both, each library in a process
of its own, set up as its users get it. Runs alternate; printed are images a second (median) and the ratios that the
project promises: >= 5 at batch 1, >= 1.8 at 8, >= 1.2 at 32, and >= 1.0 for the image side alone (read, decode, resize,
image tower). Ours includes building the classifier each time.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

BARS = {"batch 1": 5.0, "batch 8": 1.8, "batch 32": 1.2, "image side, batch 32": 1.0}
CASES = {"batch 1": (0, 1), "batch 8": (0, 8), "batch 32": (0, 32), "image side, batch 32": (1, 32)}


def make_model(folder: Path, small: bool) -> None:
    """CLIP ViT-B/32 from its default config, seeded, with the tokens that ship with open_clip."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    tower = {"num_hidden_layers": 2} if small else {}
    text = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407, **tower}
    CLIPModel(CLIPConfig(text_config=text, vision_config=tower)).save_pretrained(folder)
    peer = SimpleTokenizer()
    merges = [" ".join(pair) for pair in sorted(peer.bpe_ranks, key=peer.bpe_ranks.__getitem__)]
    vocabulary = {token.replace("<start_of_text>", "<|startoftext|>"): i for token, i in peer.encoder.items()}
    vocabulary = {token.replace("<end_of_text>", "<|endoftext|>"): i for token, i in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    CLIPTokenizer.from_pretrained(folder, model_max_length=77).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


def make_images(folder: Path, count: int) -> list[str]:
    """JPEGs of 640 x 480 with the detail of photographs: noise at several scales."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        total = np.zeros((480, 640, 3))
        for divisor, weight in ((80, 0.5), (20, 0.3), (4, 0.15), (1, 0.05)):
            noise = rng.integers(0, 256, (480 // divisor, 640 // divisor, 3), dtype=np.uint8)
            total += weight * np.asarray(Image.fromarray(noise).resize((640, 480), Image.Resampling.BILINEAR))
        path = folder / f"{number:04}.jpg"
        Image.fromarray(total.astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths


def ours(folder: Path) -> tuple[Callable[..., None], Callable[..., None]]:
    """(zero-shot, image side alone), each (paths, labels, batch size)."""
    from mmalign_zero_shot.classifier import Classifier, build_classifier, classify, encode_images
    from mmalign_zero_shot.labels import build_labels
    from mmalign_zero_shot.stream import image_batches

    from mmalign.contract.evaluation import Runtime
    from mmalign.contract.examples import ImageRef
    from mmalign.models.references import find_source
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins

    catalog = Catalog(load_plugins())
    source = find_source(f"hf:{folder}", catalog)
    backbone_class = catalog.load(source.entry)
    backbone = backbone_class.load(source, backbone_class.Config())

    def zero_shot(paths: Sequence[str], names: Sequence[str], batch_size: int) -> None:
        runtime = Runtime.choose("cpu", batch_size)
        labels, _ = build_labels(["a photo of a <object>."], names, (), None)
        weights = build_classifier(backbone, labels, runtime).weights
        classifier = Classifier(labels, weights, backbone.contrastive_head())
        rows = list(classify(classifier, backbone, [ImageRef(path) for path in paths], runtime))
        assert len(rows) == len(paths) and not any(isinstance(row, str) for _, row in rows)

    def images_alone(paths: Sequence[str], names: Sequence[str], batch_size: int) -> None:
        runtime = Runtime.choose("cpu", batch_size)
        with runtime.evaluating(backbone):
            for batch in image_batches([ImageRef(path) for path in paths], backbone.processor, batch_size):
                encode_images(backbone, batch.images, runtime)

    return zero_shot, images_alone


def theirs(folder: Path) -> tuple[Callable[..., None], Callable[..., None]]:
    from transformers import pipeline
    from transformers.image_utils import load_image

    pipe: Any = pipeline("zero-shot-image-classification", model=str(folder), device="cpu")

    def zero_shot(paths: Sequence[str], names: Sequence[str], batch_size: int) -> None:
        rows = pipe(
            list(paths), candidate_labels=list(names), hypothesis_template="a photo of a {}.", batch_size=batch_size
        )
        assert len(rows) == len(paths)

    def images_alone(paths: Sequence[str], names: Sequence[str], batch_size: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(paths), batch_size):
                loaded = [load_image(path) for path in paths[start : start + batch_size]]
                pipe.model.get_image_features(**pipe.image_processor(images=loaded, return_tensors="pt"))

    return zero_shot, images_alone


def serve(connection: Any, side: str, folder: Path, threads: int) -> None:
    """A process of one side: loads its model, then answers (case, paths, labels, batch size) with seconds."""
    torch.set_num_threads(threads)
    cases = {"mmalign": ours, "transformers": theirs}[side](folder)
    while (request := connection.recv()) is not None:
        which, paths, names, batch_size = request
        started = time.perf_counter()
        cases[which](paths, names, batch_size)
        connection.send(time.perf_counter() - started)


class Side:
    """One library in a process of its own, so that neither inherits the other's allocator or threads."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, name, folder, threads))
        self._process.start()
        theirs.close()

    def seconds(self, which: int, paths: Sequence[str], names: Sequence[str], batch_size: int) -> float:
        self._connection.send((which, list(paths), list(names), batch_size))
        return self._connection.recv()

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="two layers a tower, to try the script")
    arguments = parser.parse_args()
    from open_clip import IMAGENET_CLASSNAMES

    names = random.Random(0).sample(sorted(set(IMAGENET_CLASSNAMES)), arguments.labels)
    with tempfile.TemporaryDirectory() as temporary:
        folder, pictures = Path(temporary, "model"), Path(temporary, "pictures")
        folder.mkdir()
        pictures.mkdir()
        make_model(folder, arguments.small)
        paths = make_images(pictures, arguments.images)
        sides = {name: Side(name, folder, arguments.threads) for name in ("mmalign", "transformers")}
        print(f"{len(paths)} images, {len(names)} labels, {arguments.threads} threads, torch {torch.__version__}")
        for title in arguments.cases:
            which, batch_size = CASES[title]
            for side in sides.values():
                side.seconds(which, paths[: 2 * batch_size], names, batch_size)  # warm-up
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(arguments.repeats):
                for name, side in sides.items():
                    seconds[name].append(side.seconds(which, paths, names, batch_size))
            rates = {name: len(paths) / statistics.median(times) for name, times in seconds.items()}
            ratio = rates["mmalign"] / rates["transformers"]
            verdict = "ok" if ratio >= BARS[title] else "BELOW"
            print(
                f"{title:22} mmalign {rates['mmalign']:7.1f}/s  transformers {rates['transformers']:7.1f}/s  "
                f"ratio {ratio:5.2f} (bar {BARS[title]}) {verdict}",
                flush=True,
            )
        for side in sides.values():
            side.close()


if __name__ == "__main__":
    main()
