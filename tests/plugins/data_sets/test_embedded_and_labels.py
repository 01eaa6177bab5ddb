"""The embedded data, and labelled folders."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
from mmalign_data import emoji, photos
from mmalign_data.image_label import ImageFolders, ImageLabelConfig

from mmalign.contract.examples import ImageText
from mmalign.data.collate import Encoder
from mmalign.data.images import open_image
from mmalign.data.loader import Sweep
from mmalign.errors import DataError
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from tests.support.data_samples import TinyProcessor, encoded, picture


def test_the_catalog_finds_every_data_set_and_the_default() -> None:
    catalog = Catalog(load_plugins())
    for name in ("emoji", "photos", "image-text", "image-label"):
        entry = catalog.find("datasets", name)
        dataset_class = catalog.load(entry)
        for name, field in dataset_class.Config.model_fields.items():
            assert field.description, f"{entry.spec.name}.{name}"
    assert catalog.default("datasets", "image-text").spec.name == "emoji"


def test_every_emoji_opens_and_names_its_drawing() -> None:
    train = emoji.Emoji.build(emoji.EmojiConfig(), "train")
    held_out = emoji.Emoji.build(emoji.EmojiConfig(), "validation")
    assert train is not None and held_out is not None
    sweep = Sweep(held_out, Encoder(TinyProcessor(), ImageText, 0), 64, max_bad=0.0)
    assert sum(len(batch) for batch in sweep) == len(held_out) == 132
    assert len(train) == train.report()["kept"] == 4131 and train.report()["drawings"] == 1774
    assert {open_image(train[index].image).size for index in range(0, len(train), 20)} == {(64, 64)}
    assert train.fingerprint() != held_out.fingerprint()
    assert pickle.loads(pickle.dumps(train))[7] == train[7]


def test_held_out_names_are_never_trained_on() -> None:
    train = emoji.Emoji.build(emoji.EmojiConfig(), "train")
    held_out = emoji.Emoji.build(emoji.EmojiConfig(), "validation")
    assert train is not None and held_out is not None
    names = {held_out[index].group.lower() for index in range(len(held_out))}
    for index in range(len(train)):
        caption, start = train[index].text.lower(), "a drawing of a "
        said = {caption.removeprefix(start)} if caption.startswith(start) else set(caption.split(", "))
        assert not names & said
        assert train[index].group.lower() not in names
    assert emoji.Emoji.build(emoji.EmojiConfig(holdout=0), "validation") is None


def test_the_emoji_index_agrees_with_its_archive() -> None:
    with zipfile.ZipFile(emoji.FOLDER / "emoji.zip") as archive:
        members = archive.infolist()
        rows = [json.loads(line) for line in (emoji.FOLDER / "emoji.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(rows) == len(members) == 1906
        data = (emoji.FOLDER / "emoji.zip").read_bytes()
        for row, member in list(zip(rows, members, strict=True))[::100]:
            assert data[row["offset"] : row["offset"] + row["size"]] == archive.read(member)
    assert len({row["name"] for row in rows}) == len(rows)
    assert not any("skin tone" in row["name"] for row in rows)
    assert sum(path.stat().st_size for path in emoji.FOLDER.iterdir()) < 4_000_000


def test_photos_open_and_are_attributed() -> None:
    dataset = photos.Photos.build(photos.PhotosConfig(), "train")
    assert dataset is not None and photos.Photos.build(photos.PhotosConfig(), "validation") is None
    assert {"cat", "coffee", "koala"} <= set(dataset.classes)
    attribution = (photos.FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for index in range(len(dataset)):
        example = dataset[index]
        assert example.key == f"{dataset.classes[example.label]}.jpg" and example.key in attribution
        assert max(open_image(example.image).size) <= 400
    assert sum(path.stat().st_size for path in photos.FOLDER.iterdir()) < 300_000


# Labelled folders -----------------------------------------------------------------------------------------------------


def folders(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(encoded(picture(number), "PNG"))
    return root


def labelled(path: Path, split: str = "train", **options) -> ImageFolders | None:
    return ImageFolders.build(ImageLabelConfig(path=str(path), **options), split)


def test_classes_are_the_sorted_folders(tmp_path: Path) -> None:
    folders(tmp_path, zebra=2, ant=3, empty=0)
    (tmp_path / "notes.txt").write_text("x")
    dataset = labelled(tmp_path, holdout=0.0)
    assert dataset is not None and dataset.classes == ("ant", "empty", "zebra")
    assert [(dataset[index].key, dataset[index].label) for index in range(5)] == [
        ("ant/0.png", 0),
        ("ant/1.png", 0),
        ("ant/2.png", 0),
        ("zebra/0.png", 2),
        ("zebra/1.png", 2),
    ]
    assert dataset.report()["empty_classes"] == ["empty"] and open_image(dataset[4].image).size == (16, 12)
    assert labelled(tmp_path, "validation", holdout=0.0) is None


def test_a_part_is_held_out_by_name(tmp_path: Path) -> None:
    folders(tmp_path, a=30, b=30)
    parts = [labelled(tmp_path, split, holdout=0.3) for split in ("train", "validation")]
    keys = [{part[index].key for index in range(len(part))} for part in parts if part is not None]
    assert len(keys[0]) + len(keys[1]) == 60 and not keys[0] & keys[1] and 5 < len(keys[1]) < 35


@pytest.mark.parametrize("name", ["validation", "val", "test"])
def test_sub_folders_for_the_parts(tmp_path: Path, name: str) -> None:
    folders(tmp_path / "train", a=2, b=1)
    folders(tmp_path / name, b=2)
    train, held_out = labelled(tmp_path), labelled(tmp_path, "validation")
    assert train is not None and held_out is not None and len(train) == 3 and len(held_out) == 2
    assert held_out.classes == ("a", "b") and held_out[0].label == 1
    folders(tmp_path / name, bb=1)
    with pytest.raises(DataError, match="class 'bb' is not in"):
        labelled(tmp_path, "validation")


def test_folders_without_classes_or_images(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no such folder"), (tmp_path, "empty")):
        with pytest.raises(DataError, match=message):
            labelled(path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="1 images but no class folder"):
        labelled(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no image in its 1 class folders"):
        labelled(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        labelled(tmp_path / "a.png")
    folders(tmp_path, cat=1)
    with pytest.raises(DataError, match="no such folder"):
        labelled(tmp_path, "validation", validation=str(tmp_path / "none"))


def test_classes_are_answers_in_a_template(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            picture(number).save(tmp_path / name / f"{number}.png")
    options = {"path": str(tmp_path), "holdout": 0, "template": "this is {}, surely"}
    answers = ImageFolders.build(ImageLabelConfig(kind="completion", **options), "train")
    assert answers is not None and list(answers.text_answers()) == ["this is cat, surely", "this is dog, surely"]
    assert {(each.prompt.path[-9:], each.completion) for each in map(answers.__getitem__, range(6))} == {
        (f"{name}/{number}.png", f"this is {name}, surely") for name in ("cat", "dog") for number in range(3)
    }
    prompts = ImageFolders.build(ImageLabelConfig(kind="prompt", **options), "train")
    assert prompts is not None and prompts[0].solution == "this is cat, surely"
    labels = ImageFolders.build(ImageLabelConfig(**options), "train")
    assert labels is not None and len({labels.fingerprint(), answers.fingerprint(), prompts.fingerprint()}) == 3
    with pytest.raises(ValueError, match="once, where the name"):
        ImageLabelConfig(path="x", template="a photo")
