"""Folders of tiny models, made once a session, and pictures of every kind of mode and shape."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmalign.testing import models
from tests.support.clip_samples import TEXT, VISION


@pytest.fixture(scope="session")
def load(catalog: Any) -> Callable[..., Any]:
    """(folder or reference, **config) -> backbone, by the way a user's reference takes."""
    from mmalign.models.references import find_source

    def load_reference(reference: Path | str, **config: Any) -> Any:
        source = find_source(str(reference), catalog)
        backbone_class = catalog.load(source.entry)
        return backbone_class.load(source, backbone_class.Config(**config))

    return load_reference


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clip-models")
    coca_text = {**TEXT, "context_length": 20, "embed_cls": True, "output_tokens": True}
    coca_vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    decoder = {"context_length": 20, "vocab_size": 400, "width": 32, "heads": 2, "layers": 1}
    coca = {"vision_cfg": coca_vision, "text_cfg": coca_text, "multimodal_cfg": decoder, "custom_text": True}
    clip_bpe = {"vision_cfg": VISION, "text_cfg": {**TEXT, "width": 16, "vocab_size": 49408}, "quick_gelu": True}
    eos = {"vision_cfg": VISION, "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 322}, "custom_text": True}
    return {
        "clip": models.tiny_open_clip(root / "clip"),
        "clip-bpe": models.write_open_clip(root / "clip-bpe", clip_bpe, own_tokenizer=False),
        "eos": models.write_open_clip(root / "eos", {**eos, "quick_gelu": False}),
        "bn": models.tiny_open_clip_bn(root / "bn"),
        "siglip-like": models.tiny_siglip_like(root / "siglip-like"),
        "coca": models.write_open_clip(root / "coca", {**coca, "quick_gelu": False}),
        "hf-clip": models.tiny_transformers_clip(root / "hf-clip"),
        "hf-siglip": models.tiny_transformers_siglip(root / "hf-siglip"),
    }


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """RGB noise, smoothed a little, of many shapes: wide, tall, tiny, odd, exact."""
    rng = np.random.default_rng(0)
    sizes = [(70, 50), (33, 97), (32, 32), (7, 5), (3, 200), (224, 225), (101, 31)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a socket or to resolve a name fails the test."""
    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # As on a user's machine: nothing has switched the hub's client off
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
