"""Folders with an adapter alone: the same outputs as merged, on what base, and what is refused before weights load."""

import importlib.util
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.cli import run
from mmalign.errors import CheckpointError, MmalignError
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.testing import models

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="mmalign[lora] is not installed")
IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def saved(load_lm, lm_folders, tmp_path_factory) -> dict[str, Path]:
    """By family: a model folder with its trained adapter beside it, as runs write them."""
    root, folders = tmp_path_factory.mktemp("adapted"), {}
    for family in ("tiny_llama", "tiny_gpt2"):
        backbone = _trained(load_lm(lm_folders[family], lora={"rank": 4}), seed=0)
        folders[family] = root / family
        backbone.save(folders[family])
    return folders


def _trained(backbone: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return backbone


def logits(backbone: Any) -> torch.Tensor:
    with torch.no_grad():
        return backbone.module(IDS).logits


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_an_adapter_alone_is_the_merged_model(saved, load_lm, lm_folders, family, tmp_path) -> None:
    merged, base = load_lm(saved[family]), load_lm(lm_folders[family])
    torch.manual_seed(3)
    backbone = load_lm(saved[family] / "adapter")
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4)), "loading draws random numbers"
    torch.testing.assert_close(logits(backbone), logits(merged), rtol=1e-5, atol=1e-5)
    assert float((logits(base) - logits(merged)).abs().max()) > 0.01
    assert list(backbone.module.state_dict()) == list(base.module.state_dict())
    assert all(parameter.requires_grad for parameter in backbone.module.parameters())
    note = backbone.describe()["note"]
    assert note == f"merged into the weights of {lm_folders[family]}: {saved[family] / 'adapter'}"
    backbone.save(tmp_path / "again")
    assert torch.equal(logits(load_lm(tmp_path / "again")), logits(backbone))
    assert not (tmp_path / "again" / "adapter").exists()


def on_embeddings(base: Path, folder: Path, targets: list[str], *, tokens: int = 0) -> Any:
    """peft's model with an adapter on embeddings or head, saved as peft does: with the weights of those layers beside
    it (peft #1300). tokens: by how many the vocabulary grows first."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(base)
    if tokens:
        module.resize_token_embeddings(len(module.get_input_embeddings().weight) + tokens, mean_resizing=False)
    torch.manual_seed(0)
    with warnings.catch_warnings():  # peft's, that it saves those weights, and that they are tied
        warnings.simplefilter("ignore")
        peer = get_peft_model(module, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).eval()
        peer.save_pretrained(folder)
    return peer


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head", "q_proj"]])
def test_adapters_on_embeddings_and_head(lm_folders, load_lm, tmp_path, targets) -> None:
    peer = on_embeddings(lm_folders["tiny_llama"], tmp_path / "peer", targets)
    with torch.no_grad():
        expected = peer(IDS).logits
    torch.testing.assert_close(logits(load_lm(tmp_path / "peer")), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_what_cannot_be_merged_there_names_its_cause(lm_folders, load_lm, tmp_path) -> None:
    on_embeddings(lm_folders["tiny_llama"], tmp_path / "resized", ["lm_head"], tokens=5)
    with pytest.raises(CheckpointError, match=r"brings weights of its own for .*: its vocabulary was resized") as error:
        load_lm(tmp_path / "resized")
    assert "merge_and_unload" in error.value.hint and "trained on?" not in error.value.hint
    on_embeddings(lm_folders["tiny_gpt2"], tmp_path / "tied", ["wte"])
    with pytest.raises(CheckpointError, match=r"an adapter on transformer\.wte, .*tied embeddings"):
        load_lm(tmp_path / "tied")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_what_peft_saves_gives_what_peft_computes(lm_folders, load_lm, tmp_path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(
        r=4, lora_alpha=3, use_rslora=True, use_dora=True, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM",
        rank_pattern={"q_proj": 2}, layers_to_transform=[1],
    )  # fmt: skip
    peer = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_folders["tiny_llama"]), config).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05)
        peer.save_pretrained(tmp_path / "peer")
        torch.testing.assert_close(logits(load_lm(tmp_path / "peer")), peer(IDS).logits, rtol=1e-5, atol=1e-5)


def test_a_new_adapter_goes_on_top_and_loads_on_it_again(saved, load_lm, tmp_path) -> None:
    first = saved["tiny_llama"] / "adapter"
    backbone = load_lm(first, lora={"rank": 2})
    with backbone.adapter_off():
        torch.testing.assert_close(logits(backbone), logits(load_lm(first)), rtol=1e-5, atol=1e-5)
    _trained(backbone, seed=1).save(tmp_path / "second")
    again = load_lm(tmp_path / "second" / "adapter")
    torch.testing.assert_close(logits(again), logits(backbone), rtol=1e-5, atol=1e-5)
    assert again.describe()["note"].endswith(f"{first}, then {tmp_path / 'second' / 'adapter'}")


def edited(source: Path, target: Path, **settings: Any) -> Path:
    shutil.copytree(source, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return target


def test_the_base_is_found_from_the_adapter_or_the_working_folder(
    saved, lm_folders, catalog: Catalog, tmp_path, monkeypatch
) -> None:
    adapter, base = saved["tiny_llama"] / "adapter", lm_folders["tiny_llama"]
    shutil.copytree(base, tmp_path / "base")
    for name in ("../base", str(base)):
        source = find_source(str(edited(adapter, tmp_path / f"to-{len(name)}", base_model_name_or_path=name)), catalog)
        assert source.folder is not None and (source.folder / "config.json").is_file()
        assert source.path == source.adapters[0] and len(source.places) == 2 and source.entry.spec.name == "causal-lm"
    monkeypatch.chdir(tmp_path)
    assert find_source(
        f"hf:{edited(adapter, tmp_path / 'here', base_model_name_or_path='base')}", catalog
    ).folder == Path("base")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"base_model_name_or_path": "./gone"},
            ("is an adapter on ./gone, which does not exist", "adapter_config.json"),
        ),
        ({"base_model_name_or_path": "some/where"}, ("is an adapter on some/where", "not on this machine")),
        ({"base_model_name_or_path": "gpt-2:124m"}, ("gpt-2:124m, which does not exist",)),
        ({"base_model_name_or_path": None}, ("names no base model",)),
        ({"base_model_name_or_path": "."}, ("is an adapter on itself",)),
        ({"peft_type": "PREFIX_TUNING"}, ("type 'PREFIX_TUNING'; LORA is known here", "Merge it with peft")),
        ({"modules_to_save": ["lm_head"]}, ("modules_to_save = ['lm_head']",)),
        ({"alora_invocation_tokens": [3]}, ("alora_invocation_tokens",)),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, ("megatron_config",)),
        ({"bias": "all"}, ("bias = 'all'",)),
        ({"init_lora_weights": "pissa"}, ("init_lora_weights = 'pissa'",)),
        ({"r": 8}, ("tensors of the adapter are not its base model's", "lora_A.weight: (4, 64) in the file, (8, 64)")),
        ({"target_modules": ["q_proj"]}, ("(4, 64) in the file, no such layer in the model",)),
        ({"target_modules": ["c_attn"]}, ("cannot be put into its base model", "c_attn")),
    ],
)
def test_mistakes_are_named(saved, lm_folders, catalog: Catalog, load_lm, tmp_path, settings, words) -> None:
    folder = edited(saved["tiny_llama"] / "adapter", tmp_path / "adapter", **settings)
    with pytest.raises(CheckpointError) as caught:
        load_lm(folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_files_that_are_refused(saved, lm_folders, load_lm, tmp_path) -> None:
    folder = edited(saved["tiny_llama"] / "adapter", tmp_path / "pickled")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"only as a pickle \(adapter_model.bin\)"):
        load_lm(folder)
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").write_bytes(b"12345678 not a safetensors file")
    with pytest.raises(CheckpointError, match="cannot be put into its base model"):
        load_lm(folder)
    both = Path(shutil.copytree(lm_folders["tiny_llama"], tmp_path / "both"))
    shutil.copy(saved["tiny_llama"] / "adapter" / "adapter_config.json", both)
    with pytest.raises(CheckpointError, match="holds a model and an adapter"):
        load_lm(both)
    with pytest.raises(MmalignError, match="random_weights has no use here"):
        load_lm(saved["tiny_llama"] / "adapter", random_weights=True)


def test_peft_missing_is_said_before_weights_load(saved, load_lm, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find(name, *rest))
    monkeypatch.setattr("mmalign_lm.folder.load_module", None)  # would fail otherwise
    with pytest.raises(CheckpointError, match=r'peft that reads it is not installed\n.*"mmalign\[lora\]"'):
        load_lm(saved["tiny_llama"] / "adapter")


def test_a_family_that_merges_none_refuses_them(saved, catalog: Catalog, tmp_path) -> None:
    base = models.tiny_transformers_clip(tmp_path / "clip")
    folder = edited(saved["tiny_llama"] / "adapter", tmp_path / "adapter", base_model_name_or_path=str(base))
    with pytest.raises(MmalignError, match="transformers-clip loads no adapters"):
        find_source(str(folder), catalog)


def test_commands_say_that_it_is_merged(saved, capsys) -> None:
    assert run(["generate", "--backbone", str(saved["tiny_llama"] / "adapter"), "--max-tokens", "3", "a cat"]) == 0
    assert "merged into the weights of" in capsys.readouterr().err
