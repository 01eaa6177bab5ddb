"""Fetches weights and tokenizers that open_clip names and this machine may lack.

    fetch_tag("ViT-B-32", "openai", tag_cfg)        # path of a safetensors file, from the cache or the hub
    fetch_repository("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")     # folder of a snapshot

Only safetensors are fetched. Without a network, a file that is not cached raises a CheckpointError that says what to
do.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.errors import CheckpointError
from mmalign.models.hub import TOKENIZER_PATTERNS, fetch
from mmalign.models.references import OPEN_CLIP_CONFIG
from mmalign_clip.texts import ClipTokenizer, TextTokenizer, tokenizer_from_files

WEIGHTS = "open_clip_model.safetensors"


def fetch_tag(architecture: str, tag: str, tag_cfg: Mapping[str, Any]) -> Path:
    """The safetensors file of a tag; raises CheckpointError where the tag has none or it cannot be fetched."""
    import open_clip

    if not tag_cfg.get("hf_hub"):
        raise CheckpointError(
            f"open_clip:{architecture}/{tag} is published as a pickle only, which can run code when it is read",
            hint="Convert it where you trust it, and give the folder. Or take another tag: "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(architecture))}.",
        )
    repository, _, filename = tag_cfg["hf_hub"].rpartition("/")
    # Every repository that names open_clip's usual pickle, or none, has its safetensors under the usual name
    usual = filename in ("", "open_clip_pytorch_model.bin")
    safe = WEIGHTS if usual else Path(filename).with_suffix(".safetensors").name
    return fetch(repository, [safe]) / safe


def fetch_repository(repository: str) -> Path:
    """A snapshot of a hub repository in open_clip's format: config, safetensors, tokenizer files."""
    return fetch(repository, [OPEN_CLIP_CONFIG], [WEIGHTS, "vocabulary.txt", *TOKENIZER_PATTERNS])


def hub_tokenizer(text_cfg: Mapping[str, Any]) -> TextTokenizer:
    """The tokenizer that one of open_clip's architectures names; CLIP's where it names none."""
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        return ClipTokenizer(text_cfg["context_length"])
    return tokenizer_from_files(fetch(name, ["tokenizer.json"], TOKENIZER_PATTERNS), text_cfg)
