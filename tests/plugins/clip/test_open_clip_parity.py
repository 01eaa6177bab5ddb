"""Preprocessing, tokens, features, classifier and logits against plain open_clip, on folders that it reads itself."""

import itertools
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support.clip_samples import TEXTS, ragged

KINDS = ["clip", "clip-bpe", "eos", "bn", "siglip-like", "coca"]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, folders: Any, load: Any) -> tuple[Any, Any, Any, Any]:
    """(our backbone, open_clip's model, its evaluation transform, its tokenizer)."""
    import open_clip

    folder = folders[request.param]
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return load(folder), model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}")


def test_tokens_and_losses(pair: Any) -> None:
    ours, _, _, tokenizer = pair
    rows = tokenizer(TEXTS)
    assert rows.shape[1] == ours.processor.context_length
    for text, row in zip(TEXTS, rows, strict=True):
        mine = ours.processor.text(text)
        padded = torch.full_like(row, ours.processor.tokenizer.pad_id)
        padded[: len(mine.ids)] = mine.ids
        assert torch.equal(padded, row)
    assert [ours.processor.text(text).num_lost for text in TEXTS[:4]] == [0, 0, 0, 0]


def test_lost_tokens_are_counted_exactly(pair: Any) -> None:
    ours = pair[0]
    context, previous = ours.processor.context_length, ours.processor.text("cat").ids
    for num_words in (context - 3, context - 2, context - 1, context + 40):
        mine = ours.processor.text("cat " * num_words)
        assert len(mine.ids) == min(context, num_words + 2)
        assert mine.num_lost == max(0, num_words + 2 - context)
        assert mine.ids[-1] == previous[-1]


def test_images(pair: Any, pictures: list[Image.Image]) -> None:
    ours, _, transform, _ = pair
    for picture in pictures:
        assert torch.equal(ours.processor.image(picture), transform(picture))


@torch.no_grad()
def test_features_and_logits(pair: Any, pictures: list[Image.Image]) -> None:
    ours, model, transform, tokenizer = pair
    images = torch.stack([transform(picture) for picture in pictures])
    wanted_image = model.encode_image(images, normalize=True)
    wanted_text = model.encode_text(tokenizer(TEXTS), normalize=True)
    image, text = ours.encode_image(images), ours.encode_text(ragged(ours, TEXTS))
    torch.testing.assert_close(image, wanted_image, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, wanted_text, atol=1e-5, rtol=0)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(len(TEXTS)))
    head = ours.contrastive_head()
    bias = 0 if head.bias is None else head.bias
    wanted_bias = 0 if model.logit_bias is None else model.logit_bias
    wanted = model.logit_scale.exp() * wanted_image @ wanted_text.T + wanted_bias
    torch.testing.assert_close(head.log_scale.exp() * image @ text.T + bias, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_zero_shot_classifier_columns(pair: Any) -> None:
    import open_clip

    ours, model, _, tokenizer = pair
    names, templates = ["cat", "dog", "green bird"], open_clip.SIMPLE_IMAGENET_TEMPLATES
    wanted = open_clip.build_zero_shot_classifier(model, tokenizer, names, templates)
    features = ours.encode_text(ragged(ours, [template(name) for name in names for template in templates]))
    means = features.view(len(names), len(templates), -1).mean(1)
    torch.testing.assert_close((means / means.norm(dim=-1, keepdim=True)).T, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_every_resize_mode(mode: str, interpolation: str, size: Any, pictures: list[Image.Image]) -> None:
    from mmalign_clip.images import Preprocess, evaluation_image
    from open_clip.transform import PreprocessCfg, image_transform_v2

    ours = Preprocess(size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), interpolation, mode, fill_color=17)
    theirs = image_transform_v2(PreprocessCfg(**ours.as_dict()), is_train=False)
    for picture in pictures:
        if mode == "longest" and max(picture.size) > 50 * min(picture.size):
            # open_clip fails here: the short side rounds to 0 pixels
            assert evaluation_image(picture, ours).shape == (3, *size)
        else:
            assert torch.equal(evaluation_image(picture, ours), theirs(picture))


def test_a_palette_image_becomes_rgb_before_it_is_resized(load: Any, folders: Any, pictures: Any) -> None:
    processor = load(folders["clip"]).processor
    palette = pictures[0].quantize(8)
    assert torch.equal(processor.image(palette), processor.image(palette.convert("RGB")))


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_saved_folder_gives_open_clip_the_same_logits(
    quick_gelu: bool, load: Any, tmp_path: Any, pictures: list[Image.Image]
) -> None:
    import open_clip

    from mmalign.testing.models import tiny_open_clip

    ours = load(tiny_open_clip(tmp_path / "a", quick_gelu=quick_gelu), init_logit_bias=-3.0)
    ours.save(tmp_path / "b")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'b'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'b'}")
    images = torch.stack([ours.processor.image(picture) for picture in pictures])
    assert torch.equal(images, torch.stack([transform(picture) for picture in pictures]))
    with torch.no_grad():
        image_logits, _ = model.eval().get_logits(images, tokenizer(TEXTS))
        mine = ours.encode_image(images) @ ours.encode_text(ragged(ours, TEXTS)).T
    head = ours.contrastive_head()
    torch.testing.assert_close(mine * head.log_scale.exp() + head.bias, image_logits, atol=1e-5, rtol=0)


def test_every_tag_gets_the_activation_it_was_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip 3.3 builds GELU for `ViT-B-32` + `openai` and only warns."""
    import open_clip
    from mmalign_clip import blueprint

    monkeypatch.setattr(blueprint, "fetch_tag", lambda *_: None)
    monkeypatch.setattr(blueprint, "hub_tokenizer", lambda _: None)
    found = {}
    for architecture, tag in open_clip.list_pretrained():
        if open_clip.get_model_config(architecture) is not None:
            wanted = open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
            found[architecture, tag] = blueprint.from_tag(architecture, tag, None).model_cfg["quick_gelu"], wanted
    assert len(found) > 100 and all(ours is wanted for ours, wanted in found.values())
    assert found["ViT-B-32", "openai"] == (True, True) and found["ViT-B-32", "laion2b_s34b_b79k"] == (False, False)


def test_pictures_differ(pictures: list[Image.Image]) -> None:
    """The parity tests above would pass on blank pictures, too."""
    from mmalign_clip.images import RESIZE_MODES, Preprocess, evaluation_image

    values = [
        evaluation_image(pictures[0], Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, "bicubic", m)) for m in RESIZE_MODES
    ]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(values, 2))
