"""`mmalign zero-shot` from the outside: lines, JSON, files, exit codes, and every kind of bad input."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.cli import run


@pytest.fixture
def zero_shot(model_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    """Run the command on the tiny model, in a fresh folder: arguments -> (exit code, stdout lines, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, model: bool = True) -> tuple[int, list[str], str]:
        options = ["--backbone", str(model_folder)] if model else []
        code = run(["zero-shot", *map(str, arguments), *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err and "internal error" not in captured.err
        return code, captured.out.splitlines(), captured.err

    return call


CATS = ("--labels", "a photo of a <object>", "--objects", "cat,dog,fish")


def test_json_is_one_object_a_line_best_first(zero_shot: Any, pictures: Path) -> None:
    code, lines, _ = zero_shot(pictures, *CATS, "--json", "--top-k", 2)
    found = [json.loads(line) for line in lines]
    assert code == 0 and len(found) == 8
    for item in found:
        assert list(item) == ["image", "predictions"] and Path(item["image"]).is_file()
        first, second = item["predictions"]
        assert list(first) == ["label", "object", "score", "cosine"] and first["score"] >= second["score"]
        assert first["label"] == f"a photo of a {first['object']}"


def test_what_is_printed_is_what_the_model_says(zero_shot: Any, pictures: Path, model_folder: Path) -> None:
    import open_clip
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_folder}")
    path = pictures / "cat" / "0.jpg"
    with torch.no_grad():
        tokens = tokenizer([f"a photo of a {name}" for name in ("cat", "dog", "fish")])
        image, text, scale = model.eval()(preprocess(Image.open(path))[None], tokens)
    names, cosines = ("cat", "dog", "fish"), image @ text.T
    expected = dict(zip(names, (scale * cosines).softmax(1)[0].tolist(), strict=True))
    _, lines, _ = zero_shot(path, *CATS, "--json")
    predictions = json.loads(lines[0])["predictions"]
    found = {item["object"]: item["score"] for item in predictions}
    assert found == {name: pytest.approx(score, abs=1e-5) for name, score in expected.items()}
    found = {item["object"]: item["cosine"] for item in predictions}
    by_name = dict(zip(names, cosines[0].tolist(), strict=True))
    assert found == {name: pytest.approx(cosine, abs=1e-5) for name, cosine in by_name.items()}
    _, lines, _ = zero_shot(path, *CATS)
    winner = max(expected, key=expected.__getitem__)
    shares = f"{expected[winner]:.1%}, cosine {by_name[winner]:.2f}"
    assert lines[0].startswith(str(path)) and f"a photo of a {winner}  {shares}" in lines[0]


def test_bad_images_are_lines_and_never_stop_the_rest(zero_shot: Any, pictures: Path, tmp_path: Path) -> None:
    from PIL import Image

    good = (pictures / "dog" / "1.jpg").read_bytes()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "nothing.jpg").write_bytes(b"")
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    Image.new("P", (40, 30)).save(tmp_path / "palette.png")
    Image.new("CMYK", (40, 30)).save(tmp_path / "cmyk.jpg")
    Image.new("I;16", (40, 30)).save(tmp_path / "deep.png")
    frames = [Image.new("L", (40, 30), level) for level in (0, 255)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    code, lines, err = zero_shot(".", "absent.jpg", *CATS, "--json")
    found = {item["image"]: item for item in map(json.loads, lines)}
    bad = {name for name, item in found.items() if "error" in item}
    assert code == 0
    assert bad == {"text.png", "cut.jpg", "nothing.jpg", "bomb.png", "absent.jpg"}
    assert set(found) - bad == {"palette.png", "cmyk.jpg", "deep.png", "moving.gif"}
    assert "5 of 9 images could not be used" in err
    assert "limit" in found["bomb.png"]["error"] and "bomb.png" not in found["bomb.png"]["error"]


@pytest.mark.parametrize("argument", ["absent.jpg", "empty", "*.png"])
def test_no_usable_image_is_exit_3(argument: str, zero_shot: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, lines, err = zero_shot(argument, *CATS, "--json")
    assert code == 3
    assert [json.loads(line)["image"] for line in lines] == [argument] and "error" in lines[0]
    assert "1 of 1 images could not be used" in err
    (tmp_path / "text.jpg").write_text("hello")
    assert zero_shot("text.jpg", *CATS)[0] == 3


def test_paths_come_from_stdin(zero_shot: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_in = f"{pictures / 'cat' / '1.jpg'}\r\n\n{pictures / 'dog' / '2.jpg'}".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines_in)))
    code, lines, _ = zero_shot("-", *CATS, "--json")
    assert code == 0
    assert [Path(json.loads(line)["image"]).name for line in lines] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.jpg"], ["no labels", "--labels"]),
        (["x.jpg", "--labels", ""], ["empty label"]),
        (["x.jpg", "--labels", " , "], ["no name"]),
        (["x.jpg", "--labels", "@absent.txt"], ["cannot read absent.txt"]),
        (["x.jpg", "--labels", "a <object> {}", "--objects", "cat"], ["2 kinds of placeholder"]),
        (["x.jpg", "--labels", "cat", "--labels", "cat"], ["duplicate"]),
        (["x.jpg", "--labels", "cat", "--objects", "dog"], ["no label has a place"]),
        (["x.jpg", *CATS, "--templates", "openai7"], ["Did you mean openai-7"]),
        (["x.jpg", *CATS, "--device", "tpu"], ["tpu"]),
        (["x.jpg", *CATS, "--out", "r.xlsx"], [".parquet"]),
        (["x.jpg", *CATS, "--html", "no/r.html"], ["no folder"]),
        (["x.jpg", *CATS, "--confusion", "c.png"], ["--eval"]),
        (["x.jpg", *CATS, "--set", "train.lr=1"], ["train"]),
        (["x.jpg", *CATS, "--set", "backbone.quick_gleu=true"], ["quick_gelu"]),
        (["x.jpg", *CATS, "--top-k", "0"], ["top-k"]),
        (["x.jpg", *CATS, "--lables", "cat"], ["--labels"]),
        (["--eval", "a", "b"], ["one folder"]),
    ],
)
def test_wrong_usage_is_exit_2_and_says_why(
    arguments: list[str], words: list[str], zero_shot: Any, pictures: Path, tmp_path: Path
) -> None:
    shutil.copy(pictures / "cat" / "0.jpg", tmp_path / "x.jpg")
    code, lines, err = zero_shot(*arguments)
    assert code == 2 and lines == []
    assert all(word in err for word in words), err


def test_an_unknown_backbone_and_random_weights_are_refused(zero_shot: Any, pictures: Path) -> None:
    code, _, err = zero_shot(pictures, *CATS, "--backbone", "clip-light", model=False)
    assert code == 2 and "Did you mean clip-lite" in err
    code, _, err = zero_shot(pictures, *CATS, "--backbone", "open_clip:RN50", model=False)
    assert code == 2 and "random weights" in err


def test_a_backbone_that_cannot_is_refused_before_it_loads(
    zero_shot: Any, pictures: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from mmalign.contract.specs import BackboneSpec, Entry, Family
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins

    provides = frozenset({"encode_text", "token_logps"})
    family = Family(name="reader", matches=lambda c: "reads" in c, provides=provides, modalities=frozenset({"text"}))  # type: ignore[arg-type]
    spec = BackboneSpec(name="reader", summary="", target="no.such:Module", families=(family,), prefixes=("r",))
    original = Catalog.entries
    monkeypatch.setattr(
        Catalog,
        "entries",
        lambda self, kind: [*original(self, kind), *([Entry("backbones", "x", spec)] if kind == "backbones" else [])],
    )
    assert [entry for record in load_plugins().records for entry in record.entries]
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text('{"reads": true}')
    code, _, err = zero_shot(pictures, *CATS, "--backbone", "lm", model=False)
    assert code == 2 and "missing contrastive_head, encode_image" in err and "Provided by: clip-lite" in err


def test_threshold_says_none_of_these(zero_shot: Any, pictures: Path) -> None:
    path = pictures / "cat" / "0.jpg"
    best = json.loads(zero_shot(path, *CATS, "--json")[1][0])["predictions"][0]
    none = {"label": "none of these", "object": None, "score": None, "cosine": None}
    least = round(best["cosine"] + 0.01, 2)
    for option, value, reason in (
        ("--threshold", 0.99, f"{best['score']:.1%}, below 99.0%"),
        ("--min-cosine", least, f"cosine {best['cosine']:.3f}, below {least:g}"),
    ):
        _, lines, _ = zero_shot(path, *CATS, option, value, "--json")
        assert json.loads(lines[0])["predictions"] == [none]
        assert json.loads(lines[0])["rejected"] == {**best, "reason": reason}
        _, lines, _ = zero_shot(path, *CATS, option, value)
        assert lines[0].endswith(f"none of these  (best: {best['object']}, {reason})")
    assert "none of these" not in zero_shot(path, *CATS, "--min-cosine", best["cosine"] - 0.01)[1][0]
    zero_shot(path, *CATS, "--html", "r.html", "--out", "r.csv", "--min-cosine", least)
    assert f"best: {best['object']}, cosine {best['cosine']:.3f}, below {least:g}" in Path("r.html").read_text()
    assert f"below {least:g}" in Path("r.csv").read_text()


def test_labels_with_commas_are_what_people_mean(zero_shot: Any, pictures: Path, tmp_path: Path) -> None:
    path = pictures / "cat" / "0.jpg"

    def labels(*arguments: object) -> tuple[set[str], str]:
        code, lines, err = zero_shot(path, *arguments, "--json")
        assert code == 0, err
        return {item["label"] for item in json.loads(lines[0])["predictions"]}, err

    found, err = labels("--labels", "cat, dog,fox")
    assert found == {"cat", "dog", "fox"}
    assert "3 labels, split at commas: cat | dog | fox (repeat --labels where one has a comma)" in err
    found, err = labels("--labels", "sea, calm", "--labels", "sea, rough")
    assert found == {"sea, calm", "sea, rough"} and "'sea, calm' is one label, commas included" in err
    (tmp_path / "names.txt").write_text("sea, calm\n\nsea, rough\nfox\n")
    found, err = labels("--labels", "@names.txt")
    assert found == {"sea, calm", "sea, rough", "fox"} and "commas" not in err
    found, _ = labels("--labels", "a photo, taken by night, of a <object>", "--objects", "cat,dog")
    assert found == {f"a photo, taken by night, of a {name}" for name in ("cat", "dog")}
    found, err = labels("--labels", "cat")
    assert found == {"cat"} and "a single label gets 100% whatever the picture shows" in err


def test_templates_are_printed_and_change_the_scores(zero_shot: Any, pictures: Path) -> None:
    path = pictures / "cat" / "0.jpg"
    _, plain, _ = zero_shot(path, *CATS, "--json")
    _, averaged, err = zero_shot(path, *CATS, "--json", "--templates", "openai-7")
    assert "templates openai-7, 7 averaged: itap of a {}." in err and "and 4 more" in err
    assert "replace the wording of 'a photo of a <object>'" in err
    assert json.loads(averaged[0])["predictions"] != json.loads(plain[0])["predictions"]


def test_a_long_label_warns_with_the_count_also_from_the_cache(zero_shot: Any, pictures: Path) -> None:
    for _ in range(2):
        code, _, err = zero_shot(pictures / "cat" / "0.jpg", "--labels", "cat", "--labels", "dog " * 80)
        assert code == 0 and "1 of 2 label texts are over 32 tokens" in err


def test_out_and_html_are_written_once(zero_shot: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no")
    arguments = (pictures, "bad.jpg", *CATS, "--out", "r.csv", "--html", "r.html")
    code, _, err = zero_shot(*arguments)
    assert code == 0 and len((tmp_path / "r.csv").read_text().splitlines()) == 1 + 8 * 3 + 1
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/jpeg") == 8 and "bad.jpg" in page
    code, _, err = zero_shot(*arguments)
    assert code == 2 and "exists already" in err and "--force" in err
    assert zero_shot(*arguments, "--force")[0] == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".r")]


def test_a_hostile_file_name_prints_as_codes(zero_shot: Any, pictures: Path, tmp_path: Path) -> None:
    name = "a\x1b[31m\nb.jpg"
    shutil.copy(pictures / "cat" / "0.jpg", tmp_path / name)
    _, lines, _ = zero_shot(name, *CATS)
    assert len(lines) == 1 and "\\x1b" in lines[0] and "\x1b" not in lines[0]
    _, lines, _ = zero_shot(name, *CATS, "--json")
    assert json.loads(lines[0])["image"] == name


def test_the_second_run_uses_the_cached_classifier(zero_shot: Any, pictures: Path, monkeypatch: Any) -> None:
    path = pictures / "cat" / "0.jpg"
    first = zero_shot(path, *CATS, "--json")[1]
    monkeypatch.setattr("mmalign_zero_shot.classifier.build_classifier", lambda *args: pytest.fail("built again"))
    assert zero_shot(path, *CATS, "--json")[1] == first


def test_interrupting_is_exit_130(zero_shot: Any, pictures: Path, monkeypatch: Any) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmalign_zero_shot.classifier.encode_images", interrupt)
    code, _, err = zero_shot(pictures, *CATS, "--out", "r.jsonl")
    assert code == 130 and "interrupted" in err and not Path("r.jsonl").exists()


# A labelled folder, and the sample photographs ------------------------------------------------------------------------


def test_eval_reports_what_its_own_lines_say(zero_shot: Any, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "tabby_cat").mkdir()
    shutil.copy(pictures / "cat" / "0.jpg", tmp_path / "data" / "tabby_cat" / "one.jpg")
    (tmp_path / "data" / "dog" / "bad.jpg").write_text("no")
    (tmp_path / "data" / "empty_class").mkdir()
    code, lines, err = zero_shot("data", "--eval", "--json", "--out", "r.parquet")
    *found, last = map(json.loads, lines)
    good = [item for item in found if "predictions" in item]
    assert code == 0 and len(found) == 10 and len(good) == 9
    assert {item["truth"] for item in found} == {"cat", "dog", "tabby_cat"}
    evaluation = last["evaluation"]
    hits = sum(item["predictions"][0]["object"] == item["truth"].replace("_", " ") for item in good)
    separates = evaluation["none_of_these"]
    assert set(separates) == {"auroc", "min_cosine", "kept", "wrongly_named"}  # no threshold is invented
    assert 0 <= separates["wrongly_named"] <= separates["kept"] <= 1
    assert evaluation["examples"] == 9 and evaluation["top1"] == hits / 9 and evaluation["top5"] == 1.0
    assert 0 <= evaluation["top1_low"] <= evaluation["top1"] <= evaluation["top1_high"] <= 1
    assert {name: row["examples"] for name, row in evaluation["by_class"].items()} == {
        "cat": 4,
        "dog": 4,
        "tabby cat": 1,
    }
    assert "underscores" in err and "1 of 4 classes have no image: empty_class" in err
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    zero_shot("data", "--eval")
    assert (tmp_path / "confusion-2.png").is_file()


def test_eval_for_people_and_in_html(zero_shot: Any, pictures: Path, tmp_path: Path) -> None:
    code, lines, _ = zero_shot(pictures, "--eval", "--html", "r.html", "--objects", "Dog,fish,CAT")
    text = "\n".join(lines)
    assert code == 0 and "top-1 " in text and "95% interval" in text and "worst examples" in text
    page = (tmp_path / "r.html").read_text()
    assert "Worst examples" in page and "data:image/png" in page and not (tmp_path / "confusion.png").exists()
    code, _, err = zero_shot(pictures, "--eval", "--objects", "cat,fish")
    assert code == 2 and "do not cover the classes dog" in err
    code, _, err = zero_shot(pictures, "--eval", "--labels", "a <object>", "--labels", "the <object>")
    assert code == 2 and "2 labels" in err
    assert zero_shot("absent", "--eval")[0] == 3
    assert zero_shot(pictures / "cat", "--eval")[0] == 3


def test_eval_takes_a_validation_part_alone(zero_shot: Any, pictures: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        shutil.copytree(pictures, tmp_path / "data" / part)
    (tmp_path / "data" / "val" / "cat" / "0.jpg").unlink()
    _, lines, err = zero_shot("data", "--eval", "--json")
    assert json.loads(lines[-1])["evaluation"]["examples"] == 7 and "only the validation part" in err


def test_without_images_it_takes_the_sample_photographs_and_says_so(zero_shot: Any) -> None:
    code, lines, err = zero_shot(*CATS, "--json")
    names = {json.loads(line)["image"] for line in lines}
    assert code == 0 and "cat.jpg" in names
    assert f"using the {len(names)} sample photographs" in err
