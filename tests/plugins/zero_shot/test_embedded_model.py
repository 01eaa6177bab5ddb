"""The embedded clip-lite as it ships: what the README's command says, and plain open_clip's logits of the folder."""

import json
from pathlib import Path

import torch

from mmalign.cli import run
from mmalign.contract.batch import Ragged
from mmalign.models.references import bundled_folder, find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from tests.support.project import ROOT

PHOTOS = ROOT / "plugins" / "mmalign_data" / "photos"


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
    source = find_source("clip-lite", catalog)
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


def test_a_koala_among_wrong_labels_is_none_of_these(capsys, tmp_path) -> None:
    """A softmax names the best of seven wrong labels; the cosine says that it does not fit."""
    wrong = "lion,hammer,teapot,bicycle,tulip,airplane,violin"
    assert run(["zero-shot", str(PHOTOS / "koala.jpg"), "--labels", wrong, "--min-cosine", "-1", "--json"]) == 0
    sure = json.loads(capsys.readouterr().out)["predictions"][0]
    assert sure["score"] > 0.4 and sure["cosine"] < 0.16
    page = tmp_path / "r.html"
    assert run(["zero-shot", str(PHOTOS / "koala.jpg"), "--labels", wrong, "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    reason = f"none of these  (best: {sure['label']}, cosine {sure['cosine']:.3f}, below 0.16)"
    assert reason in out and "1 of 1 images show none of these labels" in err and "below 0.16" in page.read_text()
    assert run(["zero-shot", str(PHOTOS / "koala.jpg"), "--labels", f"{wrong},koala", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["label"] == "koala"


def test_the_calibrated_threshold_is_of_these_weights_alone(tmp_path) -> None:
    catalog = Catalog(load_plugins())
    source = find_source("clip-lite", catalog)
    backbone_class = catalog.load(source.entry)
    ours = backbone_class.load(source, backbone_class.Config())
    assert ours.describe()["min_cosine"] == 0.16
    ours.save(tmp_path / "model")
    again = backbone_class.load(find_source(str(tmp_path / "model"), catalog), backbone_class.Config())
    assert "min_cosine" not in again.describe()


def test_eval_says_which_threshold_separates(capsys, tmp_path) -> None:
    arguments = ["zero-shot", "--eval", "--confusion", str(tmp_path / "c.png"), "--json"]
    assert run(arguments) == 0
    *lines, last = map(json.loads, capsys.readouterr().out.splitlines())
    right = [line["predictions"][0]["cosine"] for line in lines]
    found = last["evaluation"]["none_of_these"]
    assert last["evaluation"]["top1"] == 1 and found["auroc"] == 1  # nine clear photographs
    assert (found["kept"], found["wrongly_named"]) == (1, 0) and found["min_cosine"] <= min(right)
    assert found["in_force"]["min_cosine"] == 0.16 and found["in_force"]["kept"] == 1
    assert run([*arguments[:-1], "--force"]) == 0
    assert "none of these: AUROC 1.000; best here: --min-cosine" in capsys.readouterr().out
