"""Locked towers, their BatchNorms, patch dropout, and the training crop."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmalign.errors import UsageError
from tests.support.clip_samples import TEXTS, VISION, ragged


def trained(backbone: Any, pictures: Any) -> set[str]:
    """Names of parameters that get a gradient from a loss over both towers and the head."""
    backbone.module.train()
    images = torch.stack([backbone.processor.image(picture) for picture in pictures[:3]])
    head = backbone.contrastive_head()
    scores = head.log_scale.exp() * backbone.encode_image(images) @ backbone.encode_text(ragged(backbone, TEXTS)).T
    (scores + (0 if head.bias is None else head.bias)).logsumexp(1).sum().backward()
    return {name for name, p in backbone.module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_without_locks_everything_trains(load: Any, folders: Any, pictures: Any) -> None:
    for kind in ("clip", "bn", "siglip-like", "hf-clip", "hf-siglip"):
        backbone = load(folders[kind])
        assert trained(backbone, pictures) == {name for name, _ in backbone.module.named_parameters()}, kind


LAST_BLOCK, LAST_TEXT_BLOCK = "visual.transformer.resblocks.1.", "transformer.resblocks.1."


@pytest.mark.parametrize(
    ("config", "image", "text"),
    [
        ({"lock_image": True}, (), None),
        ({"lock_image": True, "unlocked_image_groups": 1}, ("visual.proj",), None),
        (
            {"lock_image": True, "unlocked_image_groups": 2},
            ("visual.proj", LAST_BLOCK, "visual.ln_post."),
            None,
        ),
        ({"lock_text": True}, None, ()),
        ({"lock_text": True, "unlocked_text_layers": 1}, None, ("text_projection",)),
        (
            {"lock_text": True, "unlocked_text_layers": 2},
            None,
            ("text_projection", LAST_TEXT_BLOCK, "ln_final."),
        ),
        ({"lock_image": True, "lock_text": True}, (), ()),
    ],
)
def test_exactly_the_unlocked_groups_train(
    config: Any, image: tuple[str, ...] | None, text: tuple[str, ...] | None, load: Any, folders: Any, pictures: Any
) -> None:
    backbone = load(folders["clip"], **config)
    names = {name for name, _ in backbone.module.named_parameters()}
    visual = {name for name in names if name.startswith("visual.")}
    textual = names - visual - {"logit_scale"}
    expected = {name for name in visual if image is None or name.startswith(image)} if image != () else set()
    expected |= {name for name in textual if text is None or name.startswith(text)} if text != () else set()
    assert trained(backbone, pictures) == expected | {"logit_scale"}
    assert backbone.describe()["trainable_parameters"] == sum(
        p.numel() for n, p in backbone.module.named_parameters() if n in expected | {"logit_scale"}
    )


def test_custom_text_towers_lock_too(load: Any, folders: Any, pictures: Any) -> None:
    for kind in ("bn", "siglip-like", "coca"):
        backbone = load(folders[kind], lock_text=True)
        assert not any(name.startswith("text.") for name in trained(backbone, pictures)), kind


def test_transformers_towers_lock(load: Any, folders: Any, pictures: Any) -> None:
    for kind in ("hf-clip", "hf-siglip"):
        found = trained(load(folders[kind], lock_image=True), pictures)
        assert not any(name.startswith("vision_model.") or name.startswith("visual_proj") for name in found)
        assert any(name.startswith("text_model.") for name in found)


def test_a_locked_timm_tower_keeps_its_statistics_and_its_function(load: Any, folders: Any, pictures: Any) -> None:
    locked, free = load(folders["bn"], lock_image=True), load(folders["bn"])
    pixels = torch.stack([locked.processor.image(picture) for picture in pictures])
    wanted = free.encode_image(pixels)
    before = {name: value.clone() for name, value in locked.module.state_dict().items()}
    found = trained(locked, pictures)
    assert all(not name.startswith("visual.trunk.") for name in found) and "text.text_projection" in found
    # In training mode, too, the tower computes what it computed in evaluation mode (activations included)
    locked.module.train()
    torch.testing.assert_close(locked.encode_image(pixels), wanted, atol=1e-6, rtol=0)
    for name, value in locked.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    free.module.train()
    free.encode_image(pixels)
    assert any(not torch.equal(v, before[n]) for n, v in free.module.state_dict().items() if "running_mean" in n)


def test_unlocked_groups_of_a_timm_tower(load: Any, folders: Any, pictures: Any) -> None:
    one = trained(load(folders["bn"], lock_image=True, unlocked_image_groups=1), pictures)
    two = trained(load(folders["bn"], lock_image=True, unlocked_image_groups=2), pictures)
    trunk_one, trunk_two = ({name for name in found if name.startswith("visual.trunk.")} for found in (one, two))
    assert trunk_one and trunk_one < trunk_two
    assert not any("conv_stem" in name for name in two)
    backbone = load(folders["bn"], lock_image=True, unlocked_image_groups=2)
    before = {name: value.clone() for name, value in backbone.module.named_buffers() if "running_mean" in name}
    trained(backbone, pictures)
    moved = {n.rsplit(".", 1)[0] for n, v in backbone.module.named_buffers() if n in before and not v.equal(before[n])}
    assert moved and all(f"{layer}.weight" in trunk_two for layer in moved)


def test_a_resnet_locks_as_a_whole_only(load: Any, tmp_path: Path, pictures: Any) -> None:
    from mmalign.testing.models import write_open_clip

    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    text = {"width": 32, "heads": 2, "layers": 1, "context_length": 32}
    folder = write_open_clip(tmp_path / "rn", {"vision_cfg": resnet, "text_cfg": text, "quick_gelu": False})
    backbone = load(folder, lock_image=True)
    before = {name: value.clone() for name, value in backbone.module.visual.state_dict().items()}
    assert not any(name.startswith("visual.") for name in trained(backbone, pictures))
    assert all(torch.equal(value, before[name]) for name, value in backbone.module.visual.state_dict().items())
    with pytest.raises(UsageError, match="no layer groups"):
        load(folder, lock_image=True, unlocked_image_groups=1)


def test_patch_dropout_acts_in_training_only_and_is_not_saved(load: Any, folders: Any, tmp_path: Path) -> None:
    backbone, plain = load(folders["clip"], patch_dropout=0.5), load(folders["clip"])
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(backbone.encode_image(pixels), plain.encode_image(pixels))
    backbone.module.train()
    torch.manual_seed(1)
    first = backbone.encode_image(pixels)
    assert not torch.allclose(first, plain.encode_image(pixels), atol=1e-3)
    torch.manual_seed(1)
    assert torch.equal(backbone.encode_image(pixels), first)
    backbone.save(tmp_path / "a")
    plain.save(tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name


def test_patch_dropout_elsewhere_is_an_error(load: Any, folders: Any) -> None:
    with pytest.raises(UsageError, match="test_efficientnet"):
        load(folders["bn"], patch_dropout=0.5)
    with pytest.raises(Exception, match="patch_dropout"):
        load(folders["hf-clip"], patch_dropout=0.5)


def test_the_training_crop_is_a_function_of_its_generator(load: Any, folders: Any, pictures: Any) -> None:
    for kind in ("clip", "hf-siglip"):
        processor = load(folders[kind], flip_probability=0.5).processor
        random.seed(5)
        states = random.getstate(), torch.get_rng_state()
        crops = [processor.image(pictures[0], random.Random(seed)) for seed in (1, 1, 2)]
        assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])
        assert crops[0].shape == (3, 32, 32) and crops[0].dtype == torch.float32
        assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_crops_keep_the_asked_share_of_the_area_and_flip_as_often_as_asked() -> None:
    from mmalign_clip.images import Preprocess, _crop_box, training_image

    rng = random.Random(0)
    boxes = [_crop_box((300, 200), rng, (0.3, 0.5)) for _ in range(500)]
    shares = [(right - left) * (bottom - top) / 60_000 for left, top, right, bottom in boxes]
    assert 0.29 < min(shares) < 0.32 and 0.48 < max(shares) < 0.51
    assert all(0 <= b[0] < b[2] <= 300 and 0 <= b[1] < b[3] <= 200 for b in boxes)
    assert len(set(boxes)) > 450
    # No crop of nine tenths of a line is nearly square: the largest allowed centred box is taken
    assert _crop_box((300, 3), random.Random(0), (0.9, 1.0)) == (148, 0, 152, 3)
    preprocess = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, "bicubic", "squash")
    ramp = Image.linear_gradient("L").rotate(90).resize((64, 64)).convert("RGB")
    flips = [
        bool(image[0, 0, 0] > image[0, 0, -1])
        for image in (training_image(ramp, preprocess, random.Random(seed), (0.9, 1.0), 0.25) for seed in range(400))
    ]
    usual = min(sum(flips), 400 - sum(flips))
    assert 70 < usual < 130


def test_vision_config_is_an_open_clip_transformer() -> None:
    from mmalign_clip.locking import with_patch_dropout

    assert with_patch_dropout(VISION, 0.25) == {**VISION, "patch_dropout": 0.25} and "patch_dropout" not in VISION
