"""transformers' CLIP and SigLIP: parity with the library itself, saving, and hostile or incomplete folders."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.errors import CheckpointError, MmalignError, UsageError
from tests.support.clip_samples import TEXTS, ragged

KINDS = ["hf-clip", "hf-siglip"]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[request.param], tmp_path / "model"))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_parity(kind: str, load: Any, folders: Any, pictures: Any) -> None:
    import transformers

    ours, folder = load(folders[kind]), folders[kind]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = torch.cat([images(picture, return_tensors="pt")["pixel_values"] for picture in pictures])
    assert torch.equal(torch.stack([ours.processor.image(picture) for picture in pictures]), pixels)
    rows = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=32, return_tensors="pt").input_ids
    for text, row in zip(TEXTS, rows, strict=True):
        assert torch.equal(ours.processor.text(text).ids, row[: len(ours.processor.text(text).ids)])
    out = model(input_ids=rows, pixel_values=pixels)
    image, text = ours.encode_image(pixels), ours.encode_text(ragged(ours, TEXTS))
    torch.testing.assert_close(image, out.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, out.text_embeds, atol=1e-5, rtol=0)
    head = ours.contrastive_head()
    logits = head.log_scale.exp() * image @ text.T + (0 if head.bias is None else head.bias)
    torch.testing.assert_close(logits, out.logits_per_image, atol=1e-5, rtol=0)
    assert head.log_scale.ndim == 0 and (head.bias is None) == (kind == "hf-clip")


def test_save_and_load_equal(folder: Path, load: Any, tmp_path: Path, no_network: None) -> None:
    import transformers

    first = load(folder, init_logit_scale=1.5)
    (folder / "vocabulary.txt").write_text("cat\ndog\n")
    first = load(folder, init_logit_scale=1.5)
    first.save(tmp_path / "a")
    second = load(tmp_path / "a")
    second.save(tmp_path / "b")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "a").state_dict()
    for name, value in first.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]) and torch.equal(value, theirs[name]), name
    assert second.contrastive_head().log_scale == 1.5 and second.vocabulary == ("cat", "dog")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_head_of_a_random_siglip_is_the_papers(folders: Any, load: Any) -> None:
    import transformers

    head = load(folders["hf-siglip"], random_weights=True).contrastive_head()
    assert head.log_scale.item() == pytest.approx(math.log(10)) and head.bias == -10
    torch.manual_seed(0)
    first = load(folders["hf-clip"], random_weights=True)
    torch.manual_seed(0)
    wanted = transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(folders["hf-clip"]))
    assert first.describe()["pretrained"] is False
    for name, value in wanted.state_dict().items():
        assert torch.equal(value, first.module.state_dict()[name]), name


def test_bias(folders: Any, load: Any) -> None:
    assert load(folders["hf-siglip"], init_logit_bias=-4.0).contrastive_head().bias == -4
    with pytest.raises(UsageError, match="has no bias"):
        load(folders["hf-clip"], init_logit_bias=-4.0)


HOSTILE: dict[str, dict[str, Any]] = {
    "auto_map": {"auto_map": {"AutoModel": "evil.Model"}},
    "nested auto_map": {"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}},
    "trust_remote_code": {"trust_remote_code": True},
    "internal attention": {"_attn_implementation_internal": "evil/kernel"},
    "nested internal attention": {"vision_config": {"_attn_implementation_internal": "evil/kernel"}},
    "attention kernel": {"_attn_implementation": "evil/kernel"},
    "public attention kernel": {"attn_implementation": "evil/kernel"},
    "hydra target": {"_target_": "os.system"},
    "deep hydra target": {"extra": [{"list": {"_target_": "os.system"}}]},
    "custom pipelines": {"custom_pipelines": {"x": {"impl": "evil.Pipeline"}}},
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_hostile_configs_are_refused_by_name(name: str, file: str, folders: Any, load: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["hf-siglip"], tmp_path / "model"))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    config = json.loads((folder / file).read_text())
    for key, value in HOSTILE[name].items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / file).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"asks for code to be run: .*(auto_map|trust|attn|_target_|custom_pip)"):
        load(folder)
    assert not (tmp_path / "canary").exists()


def test_an_adapter_that_names_another_model_is_refused(folder: Path, load: Any) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model", "peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match="adapter"):
        load(folder)


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "tokenizer_config.json", "model.safetensors"])
def test_incomplete_folders_are_refused(missing: str, folder: Path, load: Any) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        load(folder)


def test_pickles_are_refused_unread(folder: Path, load: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match="pickle"):
        load(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "pytorch_model.bin", "/etc/passwd"])
def test_an_index_that_leads_elsewhere_is_refused(shard: str, folder: Path, load: Any) -> None:
    index = {"metadata": {}, "weight_map": {"logit_scale": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a safetensors file beside it"):
        load(folder)


def test_missing_and_foreign_tensors_are_refused(folder: Path, load: Any) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    lost = sorted(name for name in state if name.endswith("layers.1.mlp.fc1.weight"))[0]
    save_file({name: value for name, value in state.items() if name != lost}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=lost):
        load(folder)
    save_file({**state, "extra.weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"extra\.weight"):
        load(folder)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize("damage", [{"text_config": 3}, {"vision_config": {"image_size": "x"}}, {"text_config": []}])
def test_damaged_configs_are_refused(damage: Any, folder: Path, load: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **damage}))
    with pytest.raises(CheckpointError):
        load(folder)


@pytest.mark.parametrize("damage", [{"image_mean": None}, {"image_std": 0.5}, {"size": []}, {"image_mean": [0.5]}])
def test_damaged_image_processors_are_refused(damage: Any, folder: Path, load: Any) -> None:
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, **damage}))
    with pytest.raises(CheckpointError, match="image processor"):
        load(folder)


def test_half_precision_weights_are_widened(folder: Path, load: Any, tmp_path: Path) -> None:
    import transformers

    transformers.AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path / "half")
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, tmp_path / "half")
    module = load(tmp_path / "half").module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_naflex_and_other_models_have_no_family(folder: Path, load: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for model_type in ("siglip2", "chinese_clip"):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
        with pytest.raises(MmalignError, match=f"no plugin handles '{model_type}'"):
            load(folder)


def test_a_hub_id_that_is_not_on_this_machine_names_a_way_out(load: Any) -> None:
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load("hf:org/absent-model")
