"""Every row of a table, member of a tar and file of a folder ends in exactly one count, and the counts add up."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmalign_data.image_label import ImageFolders, ImageLabelConfig
from mmalign_data.image_text import ImageTextConfig, ImageTextFiles
from mmalign_data.texts import CompletionFiles, TextDocuments, TextFilesConfig
from mmalign_zero_shot.inputs import from_arguments, from_dataset

from mmalign.errors import DataError
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from tests.support.data_samples import encoded, picture, write_tar

JPEG = encoded(picture(), "JPEG")
# Formats that are read, formats that are not, and what is no picture.
READ = (".jpg", ".JPG", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp")
UNREAD = (".tif", ".tiff", ".TIFF", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".ico", ".psd", ".cr2", ".dng")
OTHER = (".md", ".pdf", ".mp4", ".db", ".py", ".zip", ".tmp", "")
HIDDEN = (".DS_Store", "._x.jpg", ".x.png", ".thumbs/1.jpg")


def plant(folder: Path) -> Path:
    """One of each kind of file in the class folder `cat`, and some beside it."""
    cat = folder / "cat"
    for number, suffix in enumerate((*READ, *UNREAD, *OTHER)):
        write(cat / f"f{number}{suffix}")
    for name in HIDDEN:
        write(cat / name)
    write(cat / "with.dots.00001.jpg")
    write(cat / "space in name.png")
    write(cat / "deep" / "er" / "1.jpg")
    write(cat / "empty.jpg", b"")
    os.symlink(cat / "f0.jpg", cat / "link.jpg")
    os.symlink(cat / "none.jpg", cat / "broken.jpg")
    os.mkfifo(cat / "pipe.jpg")
    os.symlink(cat / "deep", cat / "linked", target_is_directory=True)
    os.symlink(cat, cat / "deep" / "loop", target_is_directory=True)
    write(folder / "__MACOSX" / "cat" / "._1.jpg")
    return folder


def write(path: Path, data: bytes = JPEG) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def entries_of(folder: Path) -> int:
    """Files and links to folders, by another way than the readers': `find` would say the same."""
    return sum(path.is_symlink() or not path.is_dir() for path in folder.rglob("*"))


def test_files_of_class_folders_add_up(tmp_path: Path) -> None:
    folder = plant(tmp_path / "photos")
    write(folder / "dog" / "1.jpg")
    write(folder / "stray.jpg")
    write(folder / "README.md")
    os.symlink(folder / "dog", folder / "hound", target_is_directory=True)
    counted = 1  # the linked class is read: its picture is no entry of the folder itself
    for split in ("train", "validation"):
        data = ImageFolders.build(ImageLabelConfig(path=str(folder), holdout=0.4), split)
        assert data is not None
        report = data.report()
        assert sum(report["entries"].values()) == entries_of(folder) - 1 + counted, report["entries"]
        assert report["entries"]["read"] == len(READ) + 7 + 2
        assert report["skipped"]["picture outside of the class folders"] == 1
        assert report["skipped"]["link to a folder, which is not followed"] == 2
        unread = sum(n for reason, n in report["skipped"].items() if reason.startswith("picture in a format"))
        assert unread == len(UNREAD)
        assert sum(report["ignored"].values()) == len(OTHER) + len(HIDDEN) + 1 + 1
    # zero-shot --eval tells the same
    inputs = from_dataset(Catalog(load_plugins()), folder)
    told = sum(int(note.split()[0]) for note in inputs.notes if " files " in note)
    assert told + len(inputs.refs) == entries_of(folder), inputs.notes


def test_files_of_a_data_set_with_parts_add_up(tmp_path: Path) -> None:
    plant(tmp_path / "train")
    for name in ("val/cat/1.jpg", "val/stray.jpg", "test/cat/1.jpg", "val/cat/2.tiff", "info.json"):
        write(tmp_path / name)
    for split, kept in (("train", len(READ) + 7), ("validation", 1)):
        data = ImageFolders.build(ImageLabelConfig(path=str(tmp_path)), split)
        assert data is not None and len(data) == kept
        assert sum(data.report()["entries"].values()) == entries_of(tmp_path)
        assert data.report()["skipped"]["picture outside of the class folders"] == 2


@pytest.mark.parametrize("captions", [True, False])
def test_files_of_a_folder_with_captions_or_classes_add_up(tmp_path: Path, captions: bool) -> None:
    folder = plant(tmp_path / "photos")
    write(folder / "stray.jpg")
    if captions:
        for name, text in (("f0.txt", b"a cat"), ("f1.caption", b"two"), ("f4.txt", b"\xff"), ("f5.txt", b" "),
                           ("f7.txt", b"both"), ("f7.caption", b"both"), ("nobody.txt", b"?")):  # fmt: skip
            write(folder / "cat" / name, text)
    data = ImageTextFiles.build(ImageTextConfig(path=str(folder), holdout=0, max_bad=1), "train")
    assert data is not None
    report = data.report()
    assert sum(report["entries"].values()) == entries_of(folder), report["entries"]
    assert sum(report["skipped"].values()) + sum(report["ignored"].values()) + report["entries"]["read"] == entries_of(
        folder
    )
    if captions:
        # f0.txt is that of f0.jpg; f1 is F1.JPG's
        assert sorted(data[i].text for i in range(len(data))) == ["a cat", "both", "two"]
        assert report["entries"]["read"] == 6 and report["skipped"]["no caption"] == len(READ) - 5 + 7 + 1
        assert report["ignored"]["text file that is no picture's caption"] == 4
    else:
        assert {data[i].text for i in range(len(data))} == {"a photo of a cat"}
        assert report["skipped"]["picture outside of the class folders"] == 1
        assert report["notes"] == ["captions come from the folders' names: 'a photo of a NAME'; dataset.template=..."]


def test_a_folder_a_class_is_captioned_by_a_template(tmp_path: Path) -> None:
    for name in ("golden_retriever/1.jpg", "cat/more/2.jpg"):
        write(tmp_path / name)
    for template, expected in (
        ("a photo of a {}", ["a photo of a cat", "a photo of a golden retriever"]),
        ("{}, drawn; {}", ["cat, drawn; cat", "golden retriever, drawn; golden retriever"]),
    ):
        config = ImageTextConfig(path=str(tmp_path), holdout=0, template=template)
        data = ImageTextFiles.build(config, "train")
        assert data is not None and [data[i].text for i in range(2)] == expected
    with pytest.raises(DataError, match="2 x no caption"):
        ImageTextFiles.build(ImageTextConfig(path=str(tmp_path), holdout=0, template=""), "train")
    write(tmp_path / "train" / "cat" / "1.jpg")
    with pytest.raises(DataError, match=r"a part of data, not of a class\nName each part: --dataset .*/train "):
        ImageTextFiles.build(ImageTextConfig(path=str(tmp_path), holdout=0), "train")


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_members_of_a_tar_add_up(tmp_path: Path) -> None:
    sample: list[tuple[str, bytes]] = []
    for number, suffix in enumerate((*READ, *UNREAD)):
        sample += [(f"s{number}{suffix}", JPEG), (f"s{number}.txt", b"a cat")]
    # webdataset #237, datasets #7150: names with dots
    sample += [(f"photo.{n:05d}.{ext}", data) for n in range(3) for ext, data in (("jpg", JPEG), ("txt", b"dotted"))]
    sample += [("a.jpg", JPEG), ("a.mask.png", JPEG), ("a.caption", b"kohya"), ("a.cls", b"3"), ("a.npy", b"x")]
    sample += [("b.png", JPEG), ("b.json", b'{"caption": ["one", " "]}'), ("c.png", JPEG), ("c.json", b"{}")]
    sample += [("d.png", JPEG), ("d.json", b"{"), ("e.png", JPEG), ("e.txt", b"\xff"), ("f.png", JPEG), ("f.txt", b" ")]
    sample += [("g.jpg", JPEG), ("h.txt", b"alone"), ("i.mp3", b"x"), ("i.cls", b"1"), ("README", b"x")]
    sample += [("__index__.json", b"{}"), (".hidden", b"x"), ("._x.jpg", b"x"), ("a.jpg", JPEG), ("A.JPG", JPEG)]
    sample += [("k.jpg", JPEG), ("k.JPG", JPEG), ("k.txt", b"twice"), ("../up.jpg", JPEG), ("/abs.jpg", JPEG)]
    sample += [("l.txt", b"dots"), ("l.v1.jpg", JPEG), ("l.v1.txt", b"inner"), ("m.seg.png", JPEG), ("n.tar.gz", b"x")]
    members = [special("link.jpg", tarfile.SYMTYPE, "a.jpg"), special("hard.jpg", tarfile.LNKTYPE, "a.jpg"),
               special("dev.jpg", tarfile.CHRTYPE), special("fifo.jpg", tarfile.FIFOTYPE),
               special("folder", tarfile.DIRTYPE)]  # fmt: skip
    path = write_tar(tmp_path / "x.tar", sample, members)
    with tarfile.open(path) as archive:
        there = len(archive.getmembers())
    assert there == len(sample) + len(members)
    data = ImageTextFiles.build(ImageTextConfig(path=str(path), holdout=0, max_bad=1), "train")
    assert data is not None
    report = data.report()
    assert sum(report["entries"].values()) == there, report["entries"]
    found = [data[i].text for i in range(len(data))]
    assert sorted(set(found)) == ["a cat", "dotted", "inner", "kohya", "one", "twice"]
    assert found.count("a cat") == len(READ) and found.count("dotted") == 3
    unread = sum(n for reason, n in report["skipped"].items() if reason.startswith("picture in a format"))
    assert unread == len(UNREAD), "one a sample"
    # of one sample each: read twice over b's captions, empty, without caption, ...
    assert report["skipped"]["duplicate name"] == 2 and report["skipped"]["link"] == 2
    assert report["ignored"]["folder"] == 1


ROWS: list[Any] = [
    *({"image": f"{n}.jpg", "caption": f"text {n}"} for n in range(5)),
    {"image": "0.jpg", "caption": ""},
    {"image": "0.jpg", "caption": " \n"},
    {"image": "", "caption": "x"},
    {"image": None, "caption": "x"},
    {"image": "0.jpg", "caption": None},
    {"image": "0.jpg", "caption": "x" * 100_001},
    {"image": "nul\0.jpg", "caption": "read, and not found when it is opened"},
]
MORE = [
    {"image": "0.jpg", "caption": ["two", " ", "captions"]},
    {"image": "0.jpg", "caption": []},
    {"image": "0.jpg", "caption": ["", " "]},
    {"image": "0.jpg", "caption": [1, "x"]},
    {"image": 3, "caption": "x"},
    {"image": "0.jpg"},
    {"caption": "x"},
    ["a list"],
    "text",
    None,
    {"image": "0.jpg", "caption": "half \ud83d"},
]


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.csv", "t.json"])
def test_rows_of_a_table_add_up(tmp_path: Path, name: str) -> None:
    for number in range(5):
        write(tmp_path / f"{number}.jpg")
    path, rows = tmp_path / name, [*ROWS, *(MORE if name.startswith("t.json") else [])]
    if name == "t.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "t.csv":
        cells = [[row[key] or "" for key in ("image", "caption")] for row in rows if "\0" not in (row["image"] or "")]
        lines = [",".join(f'"{cell}"' for cell in row) for row in cells]
        rows = [*cells, "one cell", "three,cells,here"]
        path.write_text("\n".join(["image,caption", *lines, *rows[-2:]]) + "\n")
    elif name == "t.json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '\n\n{"broken\n')
        rows.append("the broken one")
    data = ImageTextFiles.build(ImageTextConfig(path=str(path), holdout=0, max_bad=1), "train")
    assert data is not None
    report = data.report()
    assert sum(report["entries"].values()) == len(rows), report["entries"]
    assert report["entries"]["read"] == 5 + (name != "t.csv") + (len(rows) > len(ROWS) + 3)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.parquet"])
def test_rows_of_texts_add_up(tmp_path: Path, name: str) -> None:
    rows: list[Any] = [{"prompt": f"Q{n}", "completion": "A"} for n in range(30)]
    rows += [{"prompt": "Q", "completion": value} for value in ("", " ", None)]
    if name != "t.parquet":
        rows += [{"prompt": 3, "completion": "A"}, {"prompt": "Q"}, {"completion": "A"}, 3, None, ["x"], {},
                 {"prompt": "Q", "completion": "half \ude00"}, {"messages": "x"}]  # fmt: skip
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if name == "t.json" else "".join(json.dumps(row) + "\n" for row in rows))
    kept = 0
    for split in ("train", "validation"):
        data = CompletionFiles.build(TextFilesConfig(path=str(path), holdout=0.3, max_bad=1), split)
        assert data is not None
        kept += len(data)
        assert sum(data.report()["entries"].values()) == len(rows), data.report()
    assert kept == data.report()["entries"]["read"] == 30 + (name != "t.parquet"), "an answer needs no prompt"


def test_files_of_a_folder_of_texts_add_up(tmp_path: Path) -> None:
    row = json.dumps({"text": "x"}) + "\n"
    for name in ("train.jsonl", "test.jsonl", "README.md", ".hidden.jsonl", "dataset_info.json", "more/a.docx"):
        write(tmp_path / name, row.encode())
    data = TextDocuments.build(TextFilesConfig(path=str(tmp_path), holdout=0), "train")
    assert data is not None and data.report()["ignored"] == {
        "hidden file": 1, "no table (.md)": 1, "description of the data": 1, "no table (.docx)": 1,
        "of the split test": 1,
    }  # fmt: skip


def test_pictures_of_a_plain_folder_that_are_not_read_are_told(tmp_path: Path) -> None:
    """`mmalign zero-shot FOLDER`."""
    plant(tmp_path / "photos")
    inputs = from_arguments([str(tmp_path / "photos")], io.BytesIO())
    told = sum(int(note.split()[0]) for note in inputs.notes)
    assert len(inputs.refs) == len(READ) + 7 and told == len(UNREAD) + 2, inputs.notes


def test_one_folder_for_both_parts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.jpg")
    with pytest.raises(DataError, match="holds the training images as well"):
        ImageFolders.build(ImageLabelConfig(path=str(tmp_path), validation=str(tmp_path / "." / "cat" / "..")), "train")
