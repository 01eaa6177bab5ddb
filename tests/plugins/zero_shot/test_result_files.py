"""Result files and the HTML page."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import mmalign_report
import mmalign_zero_shot
import pyarrow.parquet as pq
import pytest
from mmalign_zero_shot.output import ImageResult, Prediction, Rejected, write_results
from PIL import Image

from mmalign.errors import MmalignError, UsageError
from mmalign.files import check_out
from mmalign.report import render, thumbnail_data_uri, write_report

ZERO_SHOT = Path(mmalign_zero_shot.__path__[0], "zero_shot.html")
TRAIN = Path(mmalign_report.__path__[0], "train.html")
RESULTS = [
    ImageResult(
        'a "b",\n.jpg', [Prediction("a photo of a cat", "cat", 0.75, 0.5), Prediction("狗", "狗", 0.25, -0.125)]
    ),
    ImageResult("bad\udcff.png", error="not an image"),
    ImageResult(
        "none.jpg",
        [Prediction("none of these", None, None)],
        truth="cat",
        rejected=Rejected(Prediction("a lion", "lion", 0.75, 0.125), "cosine 0.125, below 0.25"),
    ),
]
ROWS = [
    ('a "b",\n.jpg', 1, "a photo of a cat", "cat", 0.75, 0.5, None, None, None),
    ('a "b",\n.jpg', 2, "狗", "狗", 0.25, -0.125, None, None, None),
    ("bad\\udcff.png", None, None, None, None, None, None, "not an image", None),
    ("none.jpg", 1, "none of these", None, None, None, "cat", None, "best: lion, cosine 0.125, below 0.25"),
]


def test_json_lines_hold_everything(tmp_path: Path) -> None:
    write_results(tmp_path / "r.jsonl", RESULTS)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [result.as_dict() for result in RESULTS]
    assert lines[0]["predictions"][0] == {"label": "a photo of a cat", "object": "cat", "score": 0.75, "cosine": 0.5}
    assert lines[2]["predictions"] == [{"label": "none of these", "object": None, "score": None, "cosine": None}]
    best = {"label": "a lion", "object": "lion", "score": 0.75, "cosine": 0.125}
    assert lines[2]["rejected"] == {**best, "reason": "cosine 0.125, below 0.25"}
    assert lines[1] == {"image": "bad\udcff.png", "error": "not an image"}


def test_csv_and_parquet_have_the_same_rows(tmp_path: Path) -> None:
    write_results(tmp_path / "r.csv", RESULTS)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "rank", "label", "object", "score", "cosine", "truth", "error", "note"]
    assert rows == [["" if cell is None else str(cell) for cell in row] for row in ROWS]
    write_results(tmp_path / "r.parquet", RESULTS)
    assert [tuple(row.values()) for row in pq.read_table(tmp_path / "r.parquet").to_pylist()] == ROWS


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    check_out(path, force=False)
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        check_out(path, force=False)
    check_out(path, force=True)
    for bad in (tmp_path / "r.xlsx", tmp_path / "no" / "r.csv"):
        with pytest.raises(UsageError):
            check_out(bad, force=True)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    """/dev/full refuses every write; the temporary name is made to lead there."""
    import os

    path = tmp_path / f"r{suffix}"
    path.write_text("old")
    temporary = tmp_path / f".{path.name}.{os.getpid()}.tmp"
    temporary.symlink_to("/dev/full")
    with pytest.raises(MmalignError, match="No space left") as caught:
        write_results(path, RESULTS * 10_000)
    assert "unchanged" in caught.value.hint
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


class Links(HTMLParser):
    """Collects what a browser would fetch, and the scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def context() -> dict[str, object]:
    hostile = '<script>alert(1)</script>"><img src=http://evil.example/x>'
    uri = thumbnail_data_uri(Image.new("RGB", (300, 200), "red"))
    card: dict[str, object] = {"image": hostile, "uri": uri, "truth": hostile, "right": False}
    card["note"] = hostile
    card["predictions"] = [
        Prediction(hostile, "cat", 0.5, 0.3).as_dict(),
        Prediction("none of these", None, None).as_dict(),
    ]
    return {
        "title": hostile,
        "subtitle": hostile,
        "accuracy": [("top-1", 0.5, 0.4, 0.6)],
        "settings": [("labels", 3), (hostile, hostile)],
        "warnings": [hostile],
        "errors": [(hostile, hostile)],
        "figures": [(hostile, uri)],
        "images": [card],
        "worst": [card],
        "num_left_out": 7,
        "tables": [{"title": hostile, "header": ["a", "b"], "rows": [(hostile, 1)]}],
        "labels": [hostile],
        "templates": [hostile],
    }


def test_the_page_fetches_nothing_and_escapes_everything(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", ZERO_SHOT, context())
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.found and all(link.startswith("data:image/") for link in links.found)
    assert "script" not in links.tags and "link" not in links.tags and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page
    assert "50.0%, cosine 0.30" in page and "7 more" in page


def test_a_name_that_a_template_lacks_is_an_error() -> None:
    incomplete = context()
    del incomplete["errors"]
    with pytest.raises(jinja2.UndefinedError, match="errors"):
        render(ZERO_SHOT, incomplete)


def test_the_training_page_renders() -> None:
    values = {
        "title": "contrastive on clip-lite",
        "status": "finished",
        "summary": [("steps", "100")],
        "metrics_header": ["held-out", "before", "after", "verdict"],
        "metrics": [("top1", "0.1", "0.6", "✗ worse")],
        "metrics_note": "The change.",
        "advice": ["fewer passes"],
        "figures": [("loss", thumbnail_data_uri(Image.new("RGB", (20, 20))))],
        "tables": [{"title": "Data", "header": ["", ""], "rows": [("kept", "10 < 20")]}],
        "warnings": ["3 samples could not be read"],
        "config_yaml": "train:\n  lr: 0.1\n",
        "next_commands": ["mmalign zero-shot"],
    }
    page = render(TRAIN, values)
    assert "10 &lt; 20" in page and "3 samples" in page and "lr: 0.1" in page and "mmalign zero-shot" in page
    assert '<td class="bad">✗ worse</td>' in page and "fewer passes" in page
