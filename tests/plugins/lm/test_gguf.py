"""GGUF files: the header without a library, dequantised weights as transformers reads them, saving, and mistakes."""

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmalign.errors import CheckpointError, MmalignError, UsageError
from mmalign.models.gguf import read_architecture
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from tests.support.gguf_samples import tiny_gguf
from tests.support.lm_samples import naive_logps, some_sequences

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def header(*keys: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(keys)) + b"".join(keys)


ARCHITECTURE = string("general.architecture") + struct.pack("<I", 8) + string("llama")
NUMBER = string("general.alignment") + struct.pack("<II", 4, 32)
NAMES = string("general.tags") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("bc")


def test_the_architecture_is_found_behind_other_keys(tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "model.gguf"
    for content in (header(ARCHITECTURE), header(NUMBER, NAMES, ARCHITECTURE, version=2)):
        path.write_bytes(content)
        assert read_architecture(path) == "llama"
    for reference in (str(path), f"hf:{path}", str(tmp_path)):
        source = find_source(reference, catalog)
        assert (source.entry.spec.name, source.file, source.folder) == ("causal-lm", path, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin with GGUF"),
        (b"PK\x03\x04" * 9, "does not begin with GGUF"),
        (header(ARCHITECTURE)[:-2], "ends inside its header"),
        (header(NUMBER), r"has no general.architecture"),
        (header(ARCHITECTURE, version=1), "version 1"),
        (header(string("x") + struct.pack("<I", 77)), "unknown type 77"),
        (header(struct.pack("<Q", 2**40)), "a string of 1,099,511,627,776 bytes"),
        (header(string("x") + struct.pack("<IIQ", 9, 4, 2**40)), "an array of"),
    ],
)
def test_broken_headers_are_named(tmp_path: Path, catalog: Catalog, content: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        find_source(str(path), catalog)


def test_files_that_no_backbone_reads(tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(ARCHITECTURE.replace(b"llama", b"whale")))
    with pytest.raises(UsageError, match="no plugin handles 'whale'"):
        find_source(str(path), catalog)
    (tmp_path / "other.gguf").write_bytes(header(ARCHITECTURE))
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files: model.gguf, other.gguf\nName one: --backbone"):
        find_source(str(tmp_path), catalog)
    with pytest.raises(UsageError, match=r"unknown file 'nowhere.gguf'"):
        find_source("nowhere.gguf", catalog)


def test_a_missing_package_is_named_with_the_command(tmp_path: Path, load_lm, monkeypatch) -> None:
    (tmp_path / "model.gguf").write_bytes(header(ARCHITECTURE))
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="gguf that reads it is not installed\npython -m pip install gguf"):
        load_lm(tmp_path / "model.gguf")


def test_resolving_imports_no_library(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(header(ARCHITECTURE))
    code = (
        "import sys; from mmalign.registry.catalog import Catalog; from mmalign.registry.plugins import load_plugins;"
        "from mmalign.models.references import find_source; find_source(sys.argv[1], Catalog(load_plugins()));"
        "print([name for name in ('torch', 'transformers', 'numpy', 'gguf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# With the package -----------------------------------------------------------------------------------------------------


@needs_gguf
@pytest.mark.parametrize("quantised", [True, False])
def test_weights_are_those_that_transformers_reads(tmp_path: Path, load_lm, quantised) -> None:
    from transformers import AutoModelForCausalLM

    from mmalign.models.folder import quiet

    path = tiny_gguf(tmp_path / "model.gguf", quantised=quantised)
    backbone = load_lm(path)
    with quiet():
        peer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(backbone.module(ids).logits, peer(ids).logits)
        sequences = some_sequences()
        found = backbone.token_logps(backbone.hidden_states(sequences)).logps
        torch.testing.assert_close(found, naive_logps(peer, sequences), rtol=1e-5, atol=1e-5)
    assert backbone.packs and backbone.describe()["context_length"] == 32
    assert all(parameter.requires_grad for parameter in backbone.module.parameters())


@needs_gguf
def test_a_saved_folder_is_a_plain_one(tmp_path: Path, load_lm) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backbone = load_lm(tiny_gguf(tmp_path / "model.gguf"))
    backbone.save(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    again = load_lm(tmp_path / "saved")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = backbone.module(ids).logits
        assert torch.equal(plain(ids).logits, expected) and torch.equal(again.module(ids).logits, expected)
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    for text in ("a red car", "Bird, 12 fish!", "<end> house"):
        ids = tokenizer(text)["input_ids"]
        assert ids == backbone.processor.tokenizer(text)["input_ids"] == again.processor.tokenizer(text)["input_ids"]
    assert again.processor.end_id == backbone.processor.end_id == tokenizer.pad_token_id


@needs_gguf
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_an_error_of_ours(tmp_path: Path, load_lm, share) -> None:
    path = tiny_gguf(tmp_path / "model.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(MmalignError, match=r"model.gguf"):
        load_lm(path)
