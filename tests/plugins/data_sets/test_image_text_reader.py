"""Image-text files: every layout, every fault, and archives that mean harm."""

import gzip
import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data.image_text import ImageTextConfig, ImageTextFiles

from mmalign.data.images import open_image
from mmalign.errors import BadSample, DataError
from tests.support.data_samples import encoded, picture, write_tar

PNG = encoded(picture(), "PNG")


def build(path: Path | str, split: str = "train", **options) -> ImageTextFiles:
    dataset = ImageTextFiles.build(ImageTextConfig(path=str(path), **{"holdout": 0.0, **options}), split)
    assert dataset is not None
    return dataset


def fails(path: Path | str, **options) -> str:
    with pytest.raises(DataError) as caught:
        build(path, **options)
    return str(caught.value)


def texts(dataset: ImageTextFiles) -> list[str]:
    return [dataset[index].text for index in range(len(dataset))]


def images(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(PNG)
    return folder


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'image,caption\n0.png,"a, cat"\n1.png,a dog\n'),
        (
            "b.csv",
            "\ufefffilepath\ttitle\n0.png\ta, cat\n1.png\ta dog\n",
        ),  # open_clip's separator and names, with a BOM
        ("c.tsv", "Text\tfile_name\na, cat\t0.png\na dog\t1.png\n"),
        ("d.jsonl", '{"image": "0.png", "text": "a, cat"}\n\n{"image": "1.png", "text": "a dog", "x": 1}\n'),
        ("e.csv", "image,caption\r\n0.png,'a, cat'\r\n".replace("'", '"') + "1.png,a dog"),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str) -> None:
    images(tmp_path, 2)
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    dataset = build(tmp_path / name)
    assert texts(dataset) == ["a, cat", "a dog"]
    counts = {"kept": 2, "skipped": {}, "source": str(tmp_path / name), "ignored": {}, "entries": {"read": 2}}
    assert dataset.report() == counts
    assert dataset[1].key.startswith(name) and dataset[0].group != dataset[1].group
    assert open_image(dataset[1].image).size == (16, 12)


def test_captions_of_one_image_share_a_group_and_a_side(tmp_path: Path) -> None:
    images(tmp_path, 60)
    rows = [{"image": f"{n}.png", "captions": [f"one {n}", f"two {n}"]} for n in range(60)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = build(path, holdout=0.3), build(path, "validation", holdout=0.3)
    assert len(train) + len(held_out) == 120 and 10 < len(held_out) < 80
    groups = [{part[index].group for index in range(len(part))} for part in (train, held_out)]
    assert not groups[0] & groups[1] and train[0].group == train[1].group
    assert train.fingerprint() != held_out.fingerprint() == build(path, "validation", holdout=0.3).fingerprint()
    assert ImageTextFiles.build(ImageTextConfig(path=str(path), holdout=0), "validation") is None
    other = build(path, "validation", validation=str(path))
    assert len(other) == 120 and len(build(path, validation=str(path), holdout=0.3)) == 120


def test_named_columns_separator_and_root(tmp_path: Path) -> None:
    images(tmp_path / "pics", 2)
    (tmp_path / "t.csv").write_text("photo;said\n0.png;a, b\n1.png;c\n")
    options = {
        "image_column": "photo",
        "caption_column": "said",
        "separator": ";",
        "image_root": str(tmp_path / "pics"),
    }
    assert texts(build(tmp_path / "t.csv", **options)) == ["a, b", "c"]
    wrong = fails(tmp_path / "t.csv", **{**options, "image_column": "phto"})
    assert "no column 'phto'; it has 'photo', 'said'" in wrong and "Did you mean photo?" in wrong


def test_columns_that_are_not_there_are_listed_with_the_options(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("photo,caption\n0.png,x\n")
    message = fails(tmp_path / "t.csv")
    assert "it has 'photo', 'caption'" in message and "--set dataset.image_column=NAME" in message
    (tmp_path / "t.csv").write_text("image,words\n0.png,x\n")
    assert "--set dataset.caption_column=NAME" in fails(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the table is empty"),
        ("b.csv", b"image,caption\n", "no sample found"),
        ("c.csv", b"image,caption\na.png,x\nb.png,caf\xe9\n", "c.csv:3: not UTF-8 (byte 0xe9)"),
        ("e.jsonl", b"[" * 200_000, "e.jsonl: broken JSON in object 1 of the list"),
        ("f.csv", b'image,caption\na.png,"x\n' + b"y\n" * 100_000, "f.csv:"),
        ("g.csv", b"image,image,caption\na,b,c\n", "appears twice"),
        ("h.csv", b"image,caption\nhttps://x.org/a.png,x\n", "URLs are not fetched"),
        ("i.csv", b"image,caption\nnone.png,x\nnope.png,y\n", "none of the first 2 images exists"),
        ("j.csv", b"image,caption\n" + b"x" * 16_000_001, "j.csv:2: a line over"),
        ("k.parquet", b"PAR1 and no more", "not readable as parquet"),
        ("l.parquet", b"", "not readable as parquet"),
        ("m.docx", b"x", "no known kind of image-text data"),
        ("n.tar.gz", gzip.compress(b"x", mtime=0), "Unpack it first"),
        ("o.tar", gzip.compress(b"x", mtime=0), "compressed"),
        ("p.tar", b"This is no tar. " * 100, "not a tar file"),
        ("q.tar", b"", "not a tar file"),
        ("r.tar", bytes(10240), "not a tar file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in fails(tmp_path / name)


def test_rows_without_parts_are_counted_or_too_many(tmp_path: Path) -> None:
    images(tmp_path, 1)
    rows = ['{"image": "0.png", "text": "x"}'] * 95
    rows += ['{"image":']
    rows += ['{"text": "x"}', '{"image": "0.png"}', '{"image": "0.png", "text": " "}', "3"]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    dataset = build(tmp_path / "a.jsonl", max_bad=0.05)
    reasons = (
        "broken JSON (not one JSON object a line)",
        "no image",
        "no caption",
        "empty caption",
        "not a JSON object",
    )
    assert dataset.report()["skipped"] == dict.fromkeys(reasons, 1)
    message = fails(tmp_path / "a.jsonl")
    assert "5 of 100 samples" in message and "a.jsonl:97: no image" in message and "dataset.max_bad=0.0" in message
    assert "a.jsonl:96: broken JSON" in message


def test_a_single_missing_image_is_found_when_it_is_read(tmp_path: Path) -> None:
    images(tmp_path, 1)
    (tmp_path / "a.csv").write_text("image,caption\n0.png,x\nnone.png,y\n")
    dataset = build(tmp_path / "a.csv")
    with pytest.raises(BadSample, match=r"none\.png: no such file"):
        open_image(dataset[1].image)


def test_images_relative_to_the_current_folder_are_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "pics", 1)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("image,caption\npics/0.png,x\n")
    monkeypatch.chdir(tmp_path)
    assert "dataset.image_root=." in fails("tables/a.csv")
    assert len(build("tables/a.csv", image_root=".")) == 1


# Parquet --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["hub", "bytes", "paths"])
def test_parquet(tmp_path: Path, layout: str) -> None:
    images(tmp_path, 5)
    colours = [encoded(picture(seed), "PNG") for seed in range(5)]
    column = {
        "hub": [{"bytes": data, "path": "x.png"} for data in colours],
        "bytes": colours,
        "paths": [f"{n}.png" for n in range(5)],
    }[layout]
    table = pa.table({"image": column, "caption": ["a", "b", None, "d", "e"]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    dataset = build(tmp_path / "t.parquet", max_bad=0.3)
    assert texts(dataset) == ["a", "b", "d", "e"] and dataset.report()["skipped"] == {"no caption": 1}
    expected = PNG if layout == "paths" else colours[3]
    assert dataset[2].key == "t.parquet:4"
    again = pickle.loads(pickle.dumps(dataset))
    assert (dataset[2].image.data or Path(dataset[2].image.path).read_bytes()) == expected
    assert again[2] == dataset[2]


def test_parquet_without_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [1, 2], "text": ["a", "b"]}), tmp_path / "n.parquet")
    assert "neither paths nor image bytes" in fails(tmp_path / "n.parquet")
    pq.write_table(pa.table({"pixels": [b"x"], "text": ["a"]}), tmp_path / "o.parquet")
    assert "it has 'pixels', 'text'" in fails(tmp_path / "o.parquet")
    pq.write_table(pa.table({"image": [b"x", None], "text": ["a", "b"]}), tmp_path / "p.parquet")
    with pytest.raises(BadSample, match="no image bytes"):
        build(tmp_path / "p.parquet")[1]


# Folders --------------------------------------------------------------------------------------------------------------


def test_folder_with_text_files(tmp_path: Path) -> None:
    images(tmp_path, 4)
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"caption {number}\n")
    dataset = build(tmp_path, max_bad=0.3)
    assert texts(dataset) == ["caption 0", "caption 1", "caption 2"]
    assert dataset[2].key == "2.png" and dataset.report()["skipped"] == {"no caption": 1}
    (tmp_path / "1.txt").write_bytes(b"\xff")
    assert build(tmp_path, max_bad=0.6).report()["skipped"] == {"no caption": 1, "caption is not UTF-8": 1}


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.csv"])
def test_folder_with_a_table(tmp_path: Path, name: str) -> None:
    images(tmp_path, 1)
    csv, jsonl = "file_name,text\n0.png,a cat\n", '{"file_name": "0.png", "text": "a cat"}\n'
    (tmp_path / name).write_text(csv if name.endswith("csv") else jsonl)
    assert texts(build(tmp_path)) == ["a cat"]


def test_missing_and_empty(tmp_path: Path) -> None:
    assert "no such file or folder" in fails(tmp_path / "none.csv")
    assert "no image, no tar and no table" in fails(tmp_path)
    assert "no such file" in fails(f"{tmp_path}/*.tar")
    assert "no such file" in fails(f"{tmp_path}/{{0..3}}.tar")
    assert "files" in fails(f"{tmp_path}/{{0..99999999}}.tar")


# Tars -----------------------------------------------------------------------------------------------------------------


def test_tars_as_webdataset_groups_them(tmp_path: Path) -> None:
    members = [
        ("a/1.jpg", PNG),
        ("a/1.txt", b"one"),
        ("b/1.png", PNG),
        ("b/1.json", b'{"caption": ["two", "three"]}'),
        ("2.seg.png", b"no image of the sample"),
        ("3.WEBP", PNG),  # interleaved with the next
        ("2.png", PNG),
        ("3.txt", "fünf".encode()),
        ("2.txt", b"four"),
        ("2.cls", b"7"),
        ("__key__.txt", b"x"),
        ("README", b"x"),
        ("._1.jpg", b"x"),
    ]
    for shard in (0, 1):
        write_tar(tmp_path / f"s-{shard}.tar", members)
    for path in (f"{tmp_path}/s-{{0..1}}.tar", f"{tmp_path}/*.tar", tmp_path):
        dataset = build(path)
        assert texts(dataset) == ["one", "two", "three", "four", "fünf"] * 2
    beside = "member of a sample beside its picture and caption"
    ignored = {"member without a sample's name": 6, f"{beside} (.cls)": 2, f"{beside} (.seg.png)": 2}
    assert dataset.report()["ignored"] == ignored
    assert dataset[0].key == "s-0.tar:a/1" and dataset[5].key == "s-1.tar:a/1"
    assert dataset[1].group == dataset[2].group != dataset[6].group
    assert all(open_image(dataset[index].image).size == (16, 12) for index in range(10))
    assert sorted(os.listdir(tmp_path)) == ["s-0.tar", "s-1.tar"]  # nothing was extracted


def _info(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_hostile_members_are_counted_and_cost_nothing_else(tmp_path: Path) -> None:
    good = [(f"{n}.{ext}", data) for n in range(40) for ext, data in (("png", PNG), ("txt", b"fine"))]
    bad = [("../evil.png", PNG), ("/etc/evil.png", PNG), ("a/../../b.png", PNG), ("c\\..\\d.png", PNG)]
    bad += [("new\nline.png", PNG), ("x" * 300 + ".png", PNG), ("0.png", PNG), ("lonely.png", PNG), ("no.txt", b"x")]
    bad += [
        ("utf.png", PNG),
        ("utf.txt", b"\xff\xfe"),
        ("js.png", PNG),
        ("js.json", b"{"),
        ("em.png", PNG),
        ("em.txt", b" "),
    ]
    bad += [("long.png", PNG), ("long.txt", b"x" * 1_000_001), ("num.png", PNG), ("num.json", b'{"caption": 3}')]
    special = [_info("l.png", tarfile.SYMTYPE, "/etc/passwd"), _info("h.png", tarfile.LNKTYPE, "0.png")]
    special += [_info("d.png", tarfile.CHRTYPE), _info("f.png", tarfile.FIFOTYPE), _info("dir", tarfile.DIRTYPE)]
    path = write_tar(tmp_path / "x.tar", [*good, *bad], special)
    dataset = build(path, max_bad=0.5)
    assert texts(dataset) == ["fine"] * 40
    assert dataset.report()["skipped"] == {
        "unsafe name": 5,
        "name too long": 1,
        "duplicate name": 1,
        "no caption": 2,
        "no image": 1,
        "caption is not UTF-8": 1,
        "broken JSON": 1,
        "empty caption": 1,
        "caption file over 1,000,000 bytes": 1,
        "link": 2,
        "device": 2,
    }
    message = fails(path)
    assert "18 of 58 samples cannot be used" in message and "x.tar:../evil.png: unsafe name" in message
    assert os.listdir(tmp_path) == ["x.tar"]


def _header_at(data: bytes, name: bytes) -> int:
    return data.index(name + b"\0")


def _sealed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("damage", ["header", "size", "negative", "pax", "cut"])
def test_damage_costs_the_damaged_sample_only(tmp_path: Path, damage: str) -> None:
    members = [(f"{n}.{ext}", data) for n in range(9) for ext, data in (("png", PNG), ("txt", b"fine"))]
    path = write_tar(tmp_path / "x.tar", members)
    data = bytearray(path.read_bytes())
    at = _header_at(data, b"4.png")
    header = bytearray(data[at : at + 512])
    if damage == "header":
        header[:100] = os.urandom(100)
    elif damage == "cut":
        data = data[: _header_at(data, b"8.png") + 600]
    else:
        sizes = {"size": (1 << 60), "negative": -1024, "pax": 1 << 40}
        header[124:136] = (b"\x80" if sizes[damage] > 0 else b"\xff") + (sizes[damage] % (1 << 88)).to_bytes(11, "big")
        header[156:157] = b"x" if damage == "pax" else b"0"
        header = bytearray(_sealed(header))
    if damage != "cut":
        data[at : at + 512] = header
    path.write_bytes(data)
    dataset = build(path, max_bad=0.9)
    assert len(dataset) == 8
    assert dataset.report()["skipped"]["damaged header or cut off"] == 1
    assert "x.tar@" in fails(path)


def test_archives_of_random_bytes_and_flipped_bits_raise_only_data_errors(tmp_path: Path) -> None:
    rng = random.Random(0)
    members = [(f"{n}.{ext}", data) for n in range(6) for ext, data in (("png", PNG), ("txt", b"fine"))]
    seed = write_tar(tmp_path / "x.tar", [*members, ("deep/" * 40 + "long.png", PNG), ("ü.txt", b"x")]).read_bytes()
    kept = 0
    for _ in range(300):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 4)):  # headers more often than contents
            data[(rng.randrange(len(data)) // 512 * 512 + rng.randrange(160)) % len(data)] = rng.randrange(256)
        path = tmp_path / "y.tar"
        path.write_bytes(data)
        try:
            kept += len(build(path, max_bad=1.0))
        except DataError as error:
            assert "y.tar" in str(error)
    assert kept > 1000


def test_a_zip_or_a_tar_in_a_tar_is_not_opened(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("a.png", PNG)
    write_tar(tmp_path / "in.tar", [("in.png", PNG), ("in.txt", b"inner")])
    members = [
        ("1.png", PNG),
        ("1.txt", b"x"),
        ("in.zip", inner.getvalue()),
        ("in.tar", (tmp_path / "in.tar").read_bytes()),
    ]
    assert texts(build(write_tar(tmp_path / "x.tar", members))) == ["x"]


def test_examples_do_not_depend_on_where_the_data_are(tmp_path: Path) -> None:
    prints = []
    for name in ("here", "there"):
        folder = images(tmp_path / name, 3)
        (folder / "a.csv").write_text("image,caption\n0.png,x\n1.png,y\n")
        prints.append(build(folder / "a.csv").fingerprint())
    assert prints[0] == prints[1]
    (folder / "a.csv").write_text("image,caption\n0.png,x\n1.png,z\n")
    assert build(folder / "a.csv").fingerprint() != prints[0]
