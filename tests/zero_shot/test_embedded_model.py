"""The embedded clip-lite as it ships: what the README's command says, and plain open_clip's logits of the folder."""

import json
from pathlib import Path

import torch

from mmalign.catalog import Catalog
from mmalign.cli import run
from mmalign.data.batch import Ragged
from mmalign.plugins import load_plugins
from mmalign.sources import bundled_folder, resolve

PHOTOS = Path(__file__).parents[2] / "plugins" / "mmalign_data" / "photos"


def _best(capsys, *arguments: str) -> dict[str, str]:
    assert run(["zero-shot", "--labels", "a photo of a <object>", "--json", *arguments]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {Path(line["image"]).name: line["predictions"][0]["object"] for line in lines}


def test_the_readmes_command_names_the_sample_photographs(capsys) -> None:
    best = _best(capsys)
    assert best.pop("cat.jpg") in {"tabby cat", "tiger cat", "Egyptian Mau", "Persian cat", "Siamese cat"}
    assert best.pop("coffee.jpg") in {"espresso", "coffee mug", "cup"}
    names = ("baseball", "bison", "bucket", "clownfish", "koala", "polar bear")
    assert best == {**{f"{name.replace(' ', '_')}.jpg": name for name in names}, "panda.jpg": "giant panda"}


def test_everyday_objects(capsys) -> None:
    names = ("baseball", "bison", "bucket", "cat", "clownfish", "koala", "panda", "polar bear")
    best = _best(capsys, "--objects", ",".join([*names, "cup of coffee", "hammer", "chair", "dog", "car"]))
    assert best == {**{f"{name.replace(' ', '_')}.jpg": name for name in names}, "coffee.jpg": "cup of coffee"}


def test_plain_open_clip_gives_the_same_logits() -> None:
    import open_clip

    catalog = Catalog(load_plugins())
    source = resolve("clip-lite", catalog)
    folder = bundled_folder(source.entry)
    backbone_class = catalog.load(source.entry)
    ours = backbone_class.load(source, backbone_class.Config())
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    theirs.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    labels = ["a photo of a cat", "a photo of a rocket on its launch pad", "cup"]
    from PIL import Image

    images = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    with torch.no_grad():
        image = theirs.encode_image(torch.stack([preprocess(picture) for picture in images]), normalize=True)
        text = theirs.encode_text(tokenizer(labels), normalize=True)
        expected = theirs.logit_scale.exp() * image @ text.T
        own_image = ours.encode_image(torch.stack([ours.processor.image(picture) for picture in images]))
        own_text = ours.encode_text(Ragged.from_list([ours.processor.text(label).ids for label in labels]))
        logits = ours.contrastive_head().log_scale.exp() * own_image @ own_text.T
    torch.testing.assert_close(own_image, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(own_text, text, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits / 30, expected / 30, rtol=0, atol=1e-5)
