"""Labels, placeholders, objects and templates."""

from pathlib import Path

import pytest
from mmalign_zero_shot.labels import Label, build_labels, read_names, read_templates

from mmalign.errors import UsageError


@pytest.mark.parametrize("mark", ["<object>", "{}", "{c}"])
def test_every_placeholder_is_filled_with_each_object(mark: str) -> None:
    labels, notes = build_labels([f"a photo of a {mark}"], ["cat", "dog"], (), None)
    assert labels == [
        Label("a photo of a cat", "cat", ("a photo of a cat",)),
        Label("a photo of a dog", "dog", ("a photo of a dog",)),
    ]
    assert notes == []


def test_a_label_without_placeholder_is_taken_literally() -> None:
    labels, notes = build_labels(["  a  red {car} ", "100% <b>"], None, ("unused",), None)
    assert [label.text for label in labels] == ["a red {car}", "100% <b>"]
    assert [label.object for label in labels] == ["a red {car}", "100% <b>"]
    assert len(notes) == 2 and "{car}" in notes[0] and "<b>" in notes[1]


def test_the_vocabulary_fills_the_placeholder_and_its_repeats_are_counted() -> None:
    labels, notes = build_labels(["a <object>", "nothing"], None, ("missile", "cat", "missile"), None)
    assert [label.text for label in labels] == ["a missile", "a cat", "nothing"]
    assert any("2 names" in note for note in notes) and any("1 repeated" in note for note in notes)


@pytest.mark.parametrize(
    ("patterns", "objects", "words"),
    [
        ((), None, ["no labels"]),
        (("",), None, ["empty label"]),
        (("a <object> or {}",), ["cat"], ["2 kinds", "<object>", "{}"]),
        (("a <object>",), None, ["no vocabulary", "--objects"]),
        (("a cat",), ["dog"], ["no label has a place"]),
        (("cat", "dog", "cat"), None, ["duplicate", "'cat'"]),
        (("a <object>",), ["cat", "cat"], ["duplicate", "'a cat'"]),
    ],
)
def test_bad_labels_say_what_is_wrong(patterns: tuple[str, ...], objects: list[str] | None, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build_labels(patterns, objects, (), None)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_objects_alone_get_the_usual_pattern() -> None:
    labels, _ = build_labels((), ["cat"], (), None)
    assert labels[0].text == "a photo of a cat"


def test_templates_replace_the_wording_and_say_so() -> None:
    labels, notes = build_labels(["a photo of a <object>", "sky"], ["cat"], (), ("a {}.", "my {c}"))
    assert labels == [Label("a photo of a cat", "cat", ("a cat.", "my cat")), Label("sky", "sky", ("a sky.", "my sky"))]
    assert any("replace the wording" in note for note in notes)
    with pytest.raises(UsageError, match="duplicate"):
        build_labels(["a <object>", "the <object>"], ["cat"], (), ("a {}.",))


def test_named_template_sets_are_open_clips() -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    for name, functions in (("openai-7", SIMPLE_IMAGENET_TEMPLATES), ("openai-80", OPENAI_IMAGENET_TEMPLATES)):
        templates = read_templates(name)
        assert templates is not None
        labels, _ = build_labels(["cat"], None, (), templates)
        assert list(labels[0].prompts) == [function("cat") for function in functions]
    assert read_templates("plain") is None
    with pytest.raises(UsageError, match="Did you mean openai-80"):
        read_templates("openai80")


def test_files_of_names_and_templates(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\ufeffcat\n\n  guinea   pig \n", encoding="utf-8")
    assert read_names(f"@{names}") == ["cat", "guinea pig"]
    assert read_names("cat, dog,") == ["cat", "dog"]
    templates = tmp_path / "templates.txt"
    templates.write_text("a <object>.\nmy {c}\n", encoding="utf-8")
    assert read_templates(f"@{templates}") == ("a <object>.", "my {c}")
    templates.write_text("a <object>.\nno place\n", encoding="utf-8")
    with pytest.raises(UsageError, match="'no place' has no placeholder"):
        read_templates(f"@{templates}")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for bad in (
        "@" + str(tmp_path / "absent.txt"),
        f"@{tmp_path / 'empty.txt'}",
        f"@{tmp_path / 'binary.txt'}",
        ",",
        "@",
    ):
        with pytest.raises(UsageError):
            read_names(bad)
