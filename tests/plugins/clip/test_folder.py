"""What a folder must hold, what is refused and why, and that saving loses nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.errors import CheckpointError, UsageError
from tests.support.clip_samples import TEXT, TEXTS, VISION, ragged

OPEN_CLIP_KINDS = ["clip", "clip-bpe", "eos", "bn", "siglip-like", "coca"]


@pytest.fixture
def folder(folders: Any, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folders["clip"], tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> None:
    """Set or (with None) remove dotted keys of open_clip_config.json: edit(folder, model_cfg__quick_gelu=None)."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        node = config
        for key in parents:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("kind", OPEN_CLIP_KINDS)
def test_save_and_load_equal(kind: str, load: Any, folders: Any, tmp_path: Path, no_network: None) -> None:
    first = load(folders[kind], init_logit_bias=-2.5, init_logit_scale=1.25)
    first.save(tmp_path / "a")
    second = load(tmp_path / "a")
    second.save(tmp_path / "b")
    assert first.module.state_dict().keys() == second.module.state_dict().keys()
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name
    assert second.contrastive_head().bias == -2.5 and second.contrastive_head().log_scale == 1.25
    assert first.processor.preprocess == second.processor.preprocess
    for text in TEXTS:
        assert torch.equal(first.processor.text(text).ids, second.processor.text(text).ids)
    # Written again it is the same to the byte, but for the folder's own name
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in (tmp_path / "b").iterdir())
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_half_precision_is_widened_in_memory(load: Any, folders: Any, tmp_path: Path) -> None:
    whole = load(folders["bn"])
    whole.save(tmp_path / "half", half=True)
    half = load(tmp_path / "half")
    size = (tmp_path / "half" / "open_clip_model.safetensors").stat().st_size
    assert size < 0.6 * (folders["bn"] / "open_clip_model.safetensors").stat().st_size
    for name, value in half.module.state_dict().items():
        source = whole.module.state_dict()[name]
        assert value.dtype == source.dtype
        assert torch.equal(value, source.half().to(source.dtype) if source.is_floating_point() else source)


def test_vocabulary_travels(load: Any, folder: Path, tmp_path: Path) -> None:
    import open_clip

    assert load(folder).vocabulary == tuple(open_clip.IMAGENET_CLASSNAMES)
    (folder / "vocabulary.txt").write_text("cat\ngreen bird\n\nfish\n")
    backbone = load(folder)
    backbone.save(tmp_path / "copy")
    assert backbone.vocabulary == load(tmp_path / "copy").vocabulary == ("cat", "green bird", "fish")


def test_activation_must_be_stated(load: Any, folder: Path, tmp_path: Path) -> None:
    edit(folder, model_cfg__quick_gelu=None)
    with pytest.raises(CheckpointError, match=r"activation(.|\n)*--set backbone.quick_gelu=true"):
        load(folder)
    quick, plain = load(folder, quick_gelu=True), load(folder, quick_gelu=False)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(quick.encode_image(pixels), plain.encode_image(pixels), atol=1e-4)
    quick.save(tmp_path / "stated")
    again = load(tmp_path / "stated")
    assert again.describe()["quick_gelu"] is True
    assert torch.equal(again.encode_image(pixels), quick.encode_image(pixels))


@pytest.mark.parametrize("key", ["mean", "std", "interpolation", "resize_mode"])
def test_preprocessing_must_be_stated(key: str, load: Any, folder: Path) -> None:
    edit(folder, **{f"preprocess_cfg__{key}": None})
    with pytest.raises(CheckpointError, match=f"preprocess_cfg lacks {key}"):
        load(folder)


REFUSED = {
    "no preprocess_cfg": ({"preprocess_cfg": None}, "lacks mean, std, interpolation, resize_mode"),
    "no image size": ({"model_cfg__vision_cfg__image_size": None}, "lacks size"),
    "another image size": ({"preprocess_cfg__size": 64}, "is not vision_cfg.image_size"),
    "unknown resize mode": ({"preprocess_cfg__resize_mode": "stretch"}, "unknown"),
    "no context length": ({"model_cfg__text_cfg__context_length": None}, "how many tokens"),
    "another context length": ({"model_cfg__text_cfg__context_length": 40}, "does not fit its config"),
    "fewer layers": ({"model_cfg__vision_cfg__layers": 1}, "is not known"),
    "more layers": ({"model_cfg__text_cfg__layers": 3}, "is missing"),
    "a bias without weights": ({"model_cfg__init_logit_bias": -10.0}, "logit_bias is missing"),
    "an unknown option": ({"model_cfg__vision_cfg__sharpness": 3}, "cannot build"),
    "CLIP's tokens for a small vocabulary": ({"model_cfg__text_cfg__hf_tokenizer_name": None}, "49,408 tokens"),
    "unsupported tokenizer options": ({"model_cfg__text_cfg__tokenizer_mode": "clips"}, "tokenizer_mode"),
    "code in the config": ({"model_cfg__vision_cfg___target_": "os.system"}, "code to be run: model_cfg.vision_cfg"),
    "model_cfg is no object": ({"model_cfg": 3}, "no plugin handles"),
    "preprocess_cfg is no object": ({"preprocess_cfg": 3}, "wrong type"),
    "a mean of one channel": ({"preprocess_cfg__mean": [0.5]}, "red, green and blue"),
    "a size of no length": ({"model_cfg__vision_cfg__image_size": [32]}, "wrong type"),
    "a vocabulary of words": ({"model_cfg__text_cfg__vocab_size": "many"}, "wrong type"),
    "layers of no tower": ({"model_cfg__vision_cfg__layers": []}, "cannot build"),
    "text_cfg is no object": ({"model_cfg__text_cfg": 3}, "no plugin handles|vision_cfg and text_cfg"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_folders(case: str, load: Any, folder: Path) -> None:
    changes, message = REFUSED[case]
    edit(folder, **changes)
    with pytest.raises((CheckpointError, UsageError), match=message):
        load(folder)


def test_pickles_are_refused_unread(load: Any, folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no open_clip_model.safetensors"):
        load(folder)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(CheckpointError, match=r"pickle(.|\n)*safetensors.torch.save_file"):
        load(folder)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 9, b"\xff" * 64])
def test_damaged_weights_are_refused(damage: bytes, load: Any, folder: Path) -> None:
    (folder / "open_clip_model.safetensors").write_bytes(damage)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(folder)


def test_truncated_weights_are_refused(load: Any, folder: Path) -> None:
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(folder)


def test_weights_that_are_not_finite_are_refused(load: Any, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "open_clip_model.safetensors")
    state["visual.proj"][3, 1] = float("nan")
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        load(folder)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"tokenizer_class": "Nothing"}', '{"auto_map": {"AutoTokenizer": "a.b"}}']
)
def test_damaged_tokenizers_are_refused(content: str, load: Any, folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(content)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(folder)


def test_a_missing_tokenizer_is_refused(load: Any, folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        load(folder)


def test_a_folder_never_touches_the_network(load: Any, folders: Any, tmp_path: Path, no_network: None) -> None:
    from mmalign.testing.models import write_open_clip

    for kind in folders:
        load(folders[kind])
    # open_clip itself would ask the hub for this text tower's config
    text = {"context_length": 32, "hf_model_name": "org/absent", "hf_tokenizer_name": "org/absent"}
    folder = write_open_clip(tmp_path / "model", {"vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": False})
    edit(folder, model_cfg__text_cfg=text)
    with pytest.raises(CheckpointError, match="org/absent, whose config is not on this machine"):
        load(folder)


def test_a_tag_that_is_not_on_this_machine_names_a_way_out(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"could not be downloaded(.|\n)*give a local folder"):
        load("open_clip:ViT-B-32/openai")
    with pytest.raises(UsageError, match=r"no weights 'opneai'(.|\n)*Did you mean openai"):
        load("open_clip:ViT-B-32/opneai")
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load("open_clip:hf-hub:org/absent")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """folder -> a repository org/tiny in a hub cache of its own."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def publish(*folders: Path) -> None:
        base = tmp_path / "hub" / "models--org--tiny"
        (base / "refs").mkdir(parents=True)
        (base / "refs" / "main").write_text("f" * 40)
        for folder in folders:
            shutil.copytree(folder, base / "snapshots" / ("f" * 40), dirs_exist_ok=True)

    return publish


def test_cached_hub_repositories_load(load: Any, folder: Path, folders: Any, hub: Any) -> None:
    """One repository for two libraries: the prefix says which. Gaps in the config mean what they mean to open_clip."""
    wanted = load(folder)
    edit(folder, model_cfg__quick_gelu=None, preprocess_cfg__interpolation=None, preprocess_cfg__resize_mode=None)
    (folder / "vocabulary.txt").write_text("cat\n")
    hub(folder, folders["hf-clip"])
    found, other = load("open_clip:hf-hub:org/tiny"), load("hf:org/tiny")
    for name, value in wanted.module.state_dict().items():
        assert torch.equal(found.module.state_dict()[name], value)
    assert found.processor.preprocess == wanted.processor.preprocess and found.vocabulary == ("cat",)
    assert found.describe()["quick_gelu"] is False and found.describe()["architecture"] == "org/tiny"
    assert type(other.module).__name__ == "CLIPModel" and other.vocabulary == ("cat",)


def test_a_tag_fetches_safetensors_under_the_name_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip
    from mmalign_clip import downloads

    asked = []
    monkeypatch.setattr(downloads, "fetch", lambda repository, names: asked.append((repository, *names)) or Path("x"))
    for architecture, tag in open_clip.list_pretrained():
        tag_cfg = open_clip.get_pretrained_cfg(architecture, tag)
        if tag_cfg["hf_hub"]:
            downloads.fetch_tag(architecture, tag, tag_cfg)
        else:
            with pytest.raises(CheckpointError, match="as a pickle only"):
                downloads.fetch_tag(architecture, tag, tag_cfg)
    assert ("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors") in asked
    assert len(asked) > 100 and all(name.endswith(".safetensors") and repo.count("/") == 1 for repo, name in asked)


def test_options_that_contradict_each_other_are_refused(load: Any, folders: Any) -> None:
    from pydantic import ValidationError

    for options in ({"unlocked_image_groups": 1}, {"unlocked_text_layers": 2, "lock_image": True}):
        with pytest.raises(ValidationError, match="unlocked groups need"):
            load(folders["clip"], **options)
    for scale in ((0.0, 1.0), (0.9, 0.5), (0.5, 1.5)):
        with pytest.raises(ValidationError, match="shares of the area"):
            load(folders["hf-clip"], crop_scale=scale)


def test_an_architecture_without_tag_is_random_and_says_so(load: Any, tmp_path: Path) -> None:
    from mmalign.models.references import open_clip_architecture

    assert open_clip_architecture("ViT-S-32-alt") is not None
    torch.manual_seed(3)
    backbone = load("open_clip:ViT-S-32-alt")
    assert backbone.describe()["pretrained"] is False and backbone.describe()["architecture"] == "ViT-S-32-alt"
    torch.manual_seed(3)
    again = load("open_clip:ViT-S-32-alt")
    assert all(torch.equal(a, b) for a, b in zip(backbone.module.parameters(), again.module.parameters(), strict=True))


def test_loading_draws_nothing_from_the_global_generator(load: Any, folders: Any) -> None:
    for kind in ("clip", "bn", "hf-clip"):
        before = torch.get_rng_state()
        load(folders[kind])
        assert torch.equal(before, torch.get_rng_state()), kind


def test_the_processor_is_picklable(load: Any, folders: Any, pictures: Any) -> None:
    import multiprocessing.reduction
    import pickle

    for kind in ("clip", "clip-bpe", "siglip-like", "hf-clip", "hf-siglip"):
        processor = load(folders[kind]).processor
        copy = pickle.loads(bytes(multiprocessing.reduction.ForkingPickler.dumps(processor)))
        assert torch.equal(copy.image(pictures[0]), processor.image(pictures[0])), kind
        assert torch.equal(copy.text(TEXTS[2]).ids, processor.text(TEXTS[2]).ids), kind


def test_encoding_widens_half_precision_before_normalising(load: Any, folders: Any) -> None:
    backbone = load(folders["clip"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone.encode_text(ragged(backbone, TEXTS))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(TEXTS)), atol=1e-6, rtol=0)
