"""The classifier and its scores against open_clip's own; the disk cache."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_zero_shot.cache import Cached, ClassifierCache
from mmalign_zero_shot.classifier import (
    NONE_OF_THESE,
    Classifier,
    Limits,
    Row,
    best,
    build_classifier,
    cached_classifier,
    classifier_key,
    classify,
    scores,
)
from mmalign_zero_shot.labels import build_labels, read_templates

from mmalign.contract.backbone import ContrastiveHead
from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import ImageRef
from mmalign.data.images import open_image
from mmalign.errors import NonFiniteError
from mmalign.models.digest import folder_digest

RUNTIME = Runtime(batch_size=3)
NAMES = ["cat", "small black dog", "tree", "a very long name with many more words than the others have", "fish"]


def peer(folder: Path) -> tuple[Any, Any, Any]:
    """The same folder in plain open_clip: (model, preprocess, tokenizer)."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.parametrize("templates", ["plain", "openai-7", "openai-80"])
@pytest.mark.parametrize("kind", ["tiny", "siglip"])
def test_classifier_equals_open_clips(kind: str, templates: str, request: pytest.FixtureRequest) -> None:
    from open_clip import build_zero_shot_classifier

    source, backbone = request.getfixturevalue(kind)
    texts = read_templates(templates)
    labels, _ = build_labels(NAMES, None, (), texts)
    ours = build_classifier(backbone, labels, RUNTIME).weights
    model, _, tokenizer = peer(source.folder)
    theirs = build_zero_shot_classifier(model, tokenizer, NAMES, texts or ["{}"], num_classes_per_batch=2)
    assert ours.shape == (16, len(NAMES))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_grouping_and_order_change_nothing(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, backbone = tiny
    labels, _ = build_labels(NAMES, None, (), read_templates("openai-7"))
    together = build_classifier(backbone, labels, RUNTIME).weights
    monkeypatch.setattr("mmalign_zero_shot.classifier._TOKENS_AT_ONCE", {"cpu": 1})
    alone = build_classifier(backbone, labels[::-1], RUNTIME).weights.flip(1)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_scores_of_pictures_equal_open_clips(tiny: Any, pictures: Path) -> None:
    """Softmax at the learned scale; open_clip's own metric multiplies by 100 and ranks alike."""
    source, backbone = tiny
    labels, _ = build_labels(["a photo of a <object>"], NAMES, (), None)
    classifier = Classifier(labels, build_classifier(backbone, labels, RUNTIME).weights, backbone.contrastive_head())
    paths = sorted(pictures.rglob("*.jpg"))
    refs = [ImageRef(str(path)) for path in paths]
    ours = torch.stack([row.scores for _, row in classify(classifier, backbone, refs, RUNTIME) if isinstance(row, Row)])
    model, preprocess, tokenizer = peer(source.folder)
    with torch.no_grad():
        images = torch.stack([preprocess(open_image(ref)) for ref in refs])
        image, text, scale = model(images, tokenizer([label.text for label in labels]))
    torch.testing.assert_close(ours, (scale * image @ text.T).softmax(1), atol=1e-5, rtol=0)
    assert ours.argmax(1).tolist() == (100 * image @ text.T).argmax(1).tolist()


def test_a_bias_gives_the_sigmoid_of_each_label() -> None:
    features = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    weights = features.T.contiguous()
    head = ContrastiveHead(torch.tensor(2.0), torch.tensor(-1.5))
    expected = [[1 / (1 + torch.exp(-(torch.tensor(2.0).exp() * (x @ y) - 1.5))) for y in features] for x in features]
    cosines = features @ weights
    torch.testing.assert_close(scores(cosines, head), torch.tensor(expected))
    assert not torch.allclose(scores(cosines, head).sum(1), torch.ones(3))
    softmax = scores(cosines, ContrastiveHead(torch.tensor(2.0), None))
    torch.testing.assert_close(softmax.sum(1), torch.ones(3))


def test_best_labels_and_none_of_these() -> None:
    labels, _ = build_labels(["cat", "dog", "fish"], None, (), None)
    row = Row(torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.4, 0.25]))

    def named(top_k: int, *limits: float) -> list[tuple[str, float, float]]:
        predictions, rejected = best(row, labels, top_k, Limits(*limits))
        assert rejected is None
        return [(p.label, round(p.score or 0, 4), round(p.cosine or 0, 4)) for p in predictions]

    assert named(2) == [("dog", 0.5, 0.4), ("fish", 0.3, 0.25)]
    assert [name for name, *_ in named(9, 0.3)] == ["dog", "fish"]
    assert [name for name, *_ in named(9, 0.0, 0.39)] == ["dog", "fish", "cat"]  # of the best label only
    for limits, reason in ((Limits(0.6), "50.0%, below 60.0%"), (Limits(0.3, 0.41), "cosine 0.400, below 0.41")):
        only, rejected = best(row, labels, 5, limits)
        assert [(p.label, p.object, p.score, p.cosine) for p in only] == [(NONE_OF_THESE, None, None, None)]
        assert rejected is not None and rejected.best.label == "dog" and str(rejected) == f"best: dog, {reason}"


def test_long_labels_are_counted(tiny: Any) -> None:
    _, backbone = tiny
    labels, _ = build_labels(["cat", "dog " * 60, "cat " * 60], None, (), None)
    built = build_classifier(backbone, labels, RUNTIME)
    lost = sum(backbone.processor.text(label.text).num_lost for label in labels)
    assert (built.num_long, built.num_lost) == (2, lost) and lost > 2


def test_a_broken_text_tower_is_an_error(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, backbone = tiny
    labels, _ = build_labels(["cat"], None, (), None)
    monkeypatch.setattr(backbone, "encode_text", lambda tokens: torch.full((len(tokens), 4), torch.nan))
    with pytest.raises(NonFiniteError):
        build_classifier(backbone, labels, RUNTIME)


def test_a_bad_picture_is_marked_and_the_rest_go_on(tiny: Any, pictures: Path, tmp_path: Path) -> None:
    _, backbone = tiny
    (tmp_path / "text.png").write_text("hello")
    good = sorted(str(path) for path in pictures.rglob("*.jpg"))
    paths = [good[0], str(tmp_path / "text.png"), *good[1:], str(tmp_path / "absent.jpg")]
    labels, _ = build_labels(["cat", "dog"], None, (), None)
    classifier = Classifier(labels, build_classifier(backbone, labels, RUNTIME).weights, backbone.contrastive_head())
    found = dict(classify(classifier, backbone, [ImageRef(path) for path in paths], RUNTIME))
    assert list(found) == list(range(len(paths)))
    assert [index for index, result in found.items() if isinstance(result, str)] == [1, len(paths) - 1]


def test_training_modes_come_back(tiny: Any) -> None:
    _, backbone = tiny
    modules = list(backbone.module.modules())
    backbone.module.train()
    modules[3].eval()  # a locked part
    before = [module.training for module in modules]
    with RUNTIME.evaluating(backbone):
        assert not any(module.training for module in modules) and not torch.is_grad_enabled()
    assert [module.training for module in modules] == before and torch.is_grad_enabled()
    backbone.module.eval()


# The cache on disk ----------------------------------------------------------------------------------------------------


def test_the_cache_answers_the_second_time_and_only_for_the_same_question(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, backbone = tiny
    cache = ClassifierCache(tmp_path / "cache")
    labels, _ = build_labels(NAMES, None, (), None)
    first = cached_classifier(backbone, source, labels, RUNTIME, cache, {})
    monkeypatch.setattr(
        "mmalign_zero_shot.classifier.build_classifier", lambda *args: pytest.fail("built although it is cached")
    )
    again = cached_classifier(backbone, source, labels, RUNTIME, cache, {})
    assert torch.equal(first.weights, again.weights) and again.num_long == first.num_long
    other = [
        classifier_key(backbone, source, labels[:-1], cache, {}),
        classifier_key(backbone, source, labels[::-1], cache, {}),
        classifier_key(backbone, source, labels, cache, {"quick_gelu": True}),
        classifier_key(backbone, source, labels, cache, {}),
    ]
    assert len(set(other)) == 4
    assert not cache.warnings


def test_the_key_changes_with_weights_and_tokenizer(model_folder: Path, load_folder: Any, tmp_path: Path) -> None:
    import shutil

    labels, _ = build_labels(NAMES, None, (), None)
    cache = ClassifierCache(tmp_path / "cache")
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    source, backbone = load_folder(folder)
    original = classifier_key(backbone, source, labels, cache, {})
    weights = next(folder.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = classifier_key(backbone, source, labels, cache, {})
    tokenizer = folder / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert len({original, changed, classifier_key(backbone, source, labels, cache, {})}) == 3


def test_a_damaged_entry_is_built_again_and_said(tiny: Any, tmp_path: Path) -> None:
    source, backbone = tiny
    cache = ClassifierCache(tmp_path / "cache")
    labels, _ = build_labels(NAMES, None, (), None)
    first = cached_classifier(backbone, source, labels, RUNTIME, cache, {})
    path = next(cache.folder.glob("*.safetensors"))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for damage in (whole[:40], b"", bytes(flipped), b"x" * len(whole)):
        path.write_bytes(damage)
        cache.warnings.clear()
        assert torch.equal(cached_classifier(backbone, source, labels, RUNTIME, cache, {}).weights, first.weights)
        assert len(cache.warnings) == 1 and "damaged" in cache.warnings[0]
        cache.warnings.clear()
        assert cache.read(path.stem) is not None and not cache.warnings


def test_the_cache_keeps_the_most_recently_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr("mmalign_zero_shot.cache.MAX_FILES", 3)
    cache = ClassifierCache(tmp_path)
    for number in range(5):
        cache.write(f"key{number}", Cached(torch.full((2, 2), float(number)), 0, 0))
        for place in range(number + 1):
            if (path := tmp_path / f"key{place}.safetensors").exists():
                os.utime(path, (place, place))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["key2", "key3", "key4"]


def test_a_cache_that_cannot_be_written_only_warns(tiny: Any, tmp_path: Path) -> None:
    source, backbone = tiny
    (tmp_path / "file").write_text("in the way")
    cache = ClassifierCache(tmp_path / "file")
    labels, _ = build_labels(["cat"], None, (), None)
    cached_classifier(backbone, source, labels, RUNTIME, cache, {})
    assert len(cache.warnings) == 1 and "could not be cached" in cache.warnings[0]


def test_hashes_of_large_files_are_remembered_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setattr("mmalign.models.digest._LARGE_FILE", 10)
    folder, memory = tmp_path / "model", tmp_path / "memory" / "digests.json"
    folder.mkdir()
    weights = folder / "weights"
    weights.write_bytes(b"0" * 20)
    first = folder_digest(folder, memory)
    assert memory.is_file() and folder_digest(folder, memory) == first
    stat = weights.stat()
    weights.write_bytes(b"1" * 20)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert folder_digest(folder, memory) == first  # same path, size and time: the remembered hash
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert folder_digest(folder, memory) != first
    memory.write_text("[not a memory")
    assert folder_digest(folder, memory) != first
