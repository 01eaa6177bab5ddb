"""Tiny real models for tests: built from a config with seeded weights, saved as folders, deleted after the test.

    folder = tiny_open_clip(tmp_path / "model")       # a CLIP of 60,000 parameters; 32 x 32 pixels, 32 tokens
    backbone = ...load(mmalign.models.references.find_source(str(folder), catalog))

The library that defines a format writes the model, never mmalign's own code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.models.references import OPEN_CLIP_CONFIG

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IMAGE_SIZE, CONTEXT_LENGTH = 32, 32
_LM = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT_LENGTH,
}  # fmt: skip
_WORDS = "a an the photo of and with on cat dog bird fish car tree house red green blue black white small large".split()
_PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}
_VISION = {"image_size": IMAGE_SIZE, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
_TEXT = {"width": 32, "heads": 2, "layers": 2, "context_length": CONTEXT_LENGTH}


def tiny_open_clip(folder: Path, *, seed: int = 0, quick_gelu: bool = False) -> Path:
    """A vision transformer beside a causal text transformer, in open_clip's local-dir format; returns `folder`."""
    return write_open_clip(folder, {"vision_cfg": _VISION, "text_cfg": _TEXT, "quick_gelu": quick_gelu}, seed=seed)


def tiny_open_clip_bn(folder: Path, *, seed: int = 0) -> Path:
    """A convolutional timm tower with BatchNorm beside a causal text transformer; returns `folder`."""
    vision = {"image_size": IMAGE_SIZE, "timm_model_name": "test_efficientnet", "timm_pool": "avg"}
    config = {"vision_cfg": vision, "text_cfg": _TEXT, "custom_text": True, "quick_gelu": False}
    return write_open_clip(folder, config, seed=seed)


def tiny_siglip_like(folder: Path, *, seed: int = 0) -> Path:
    """SigLIP's features in open_clip's format: bias, bidirectional attention, last-token pooling, squashed images."""
    pooling = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    text = {**_TEXT, **pooling, "tokenizer_kwargs": {"clean": "canonicalize"}}
    config = {"vision_cfg": _VISION, "text_cfg": text, "custom_text": True, "quick_gelu": False}
    config |= {"init_logit_scale": 2.302585, "init_logit_bias": -10.0}
    return write_open_clip(folder, config, seed=seed, preprocess_cfg={**_PIXELS, "resize_mode": "squash"})


def tiny_transformers_clip(folder: Path, *, seed: int = 0) -> Path:
    """transformers' CLIPModel with its processor, as `save_pretrained` writes them; returns `folder`."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = tiny_tokenizer()
    end = tokenizer.token_to_id("<end>")
    ids = {"bos_token_id": tokenizer.token_to_id("<start>"), "eos_token_id": end, "pad_token_id": end}
    towers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**towers, **ids, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": CONTEXT_LENGTH}
    vision = {**towers, "image_size": IMAGE_SIZE, "patch_size": 8}
    config = CLIPConfig.from_dict({"text_config": text, "vision_config": vision, "projection_dim": 16})
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    return _write_transformers(folder, CLIPModel, config, images, _write_tokenizer(folder, tokenizer, "<end>"), seed)


def tiny_transformers_siglip(folder: Path, *, seed: int = 0) -> Path:
    """transformers' SiglipModel with its processor, as `save_pretrained` writes them; returns `folder`."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    tokenizer = tiny_tokenizer()
    towers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**towers, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": CONTEXT_LENGTH}
    text |= {"pad_token_id": 0, "bos_token_id": tokenizer.token_to_id("<start>")}
    text |= {"eos_token_id": tokenizer.token_to_id("<end>"), "projection_size": 32}
    vision = {**towers, "image_size": IMAGE_SIZE, "patch_size": 8}
    config = SiglipConfig.from_dict({"text_config": text, "vision_config": vision})
    images = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return _write_transformers(folder, SiglipModel, config, images, _write_tokenizer(folder, tokenizer, "<pad>"), seed)


def tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of two layers with rotary positions and grouped keys; returns `folder`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _write_causal_lm(folder, LlamaForCausalLM, LlamaConfig, {**_LM, "num_key_value_heads": 1}, seed)


def tiny_gpt2(folder: Path, *, seed: int = 0) -> Path:
    """A GPT-2 of two layers with learned positions and, as usual, dropout in its config; returns `folder`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT_LENGTH}
    return _write_causal_lm(folder, GPT2LMHeadModel, GPT2Config, sizes, seed)


def tiny_bloom(folder: Path, *, seed: int = 0) -> Path:
    """A BLOOM of two layers: ALiBi instead of position embeddings, and no support for a 4-D mask; returns `folder`."""
    from transformers import BloomConfig, BloomForCausalLM

    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
    return _write_causal_lm(folder, BloomForCausalLM, BloomConfig, sizes, seed)


def tiny_reward_model(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of two layers with one classification label, and its mean score in the config; returns `folder`."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes = {**_LM, "num_key_value_heads": 1, "num_labels": 1, "mmalign_reward_mean": 0.25}
    return _write_causal_lm(folder, LlamaForSequenceClassification, LlamaConfig, sizes, seed)


def tiny_tokenizer() -> "Tokenizer":
    """Byte pairs learned from two dozen words: <pad> is 0, <end> the highest id; it can encode any text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_WORDS * 3, trainer)
    tokenizer.add_special_tokens(["<start>", "<end>"])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return tokenizer


def write_open_clip(
    folder: Path,
    model_cfg: Mapping[str, Any],
    *,
    seed: int = 0,
    own_tokenizer: bool = True,
    preprocess_cfg: Mapping[str, Any] = _PIXELS,
) -> Path:
    """Build a model from open_clip's `model_cfg` and write it in local-dir format; returns `folder`.

    own_tokenizer: use the tiny tokenizer; otherwise CLIP's, and `text_cfg` must allow for its 49,408 tokens.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    text_cfg = dict(model_cfg["text_cfg"])
    if own_tokenizer:
        tokenizer = tiny_tokenizer()
        _write_tokenizer(folder, tokenizer, "<pad>")
        text_cfg |= {"vocab_size": tokenizer.get_vocab_size(), "hf_tokenizer_name": "tiny"}
    model_cfg = {"embed_dim": 16, **model_cfg, "text_cfg": text_cfg}
    arguments = {key: value for key, value in json.loads(json.dumps(model_cfg)).items() if key != "custom_text"}
    coca, custom = "multimodal_cfg" in model_cfg, model_cfg.get("custom_text")
    cls: Any = open_clip.CoCa if coca else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = cls(**arguments)
        if coca:
            # open_clip leaves this parameter unset
            torch.nn.init.normal_(module.text_decoder.text_projection, std=0.1)
        state = module.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": model_cfg, "preprocess_cfg": dict(preprocess_cfg)}
    (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def _write_tokenizer(folder: Path, tokenizer: "Tokenizer", pad: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token="<start>", eos_token="<end>", padding_side="right"
    )
    wrapped.model_max_length = CONTEXT_LENGTH
    wrapped.save_pretrained(folder)
    return wrapped


def _write_causal_lm(folder: Path, model: Any, config: Any, sizes: Mapping[str, Any], seed: int) -> Path:
    import torch

    tokenizer = tiny_tokenizer()
    # No start token, and padding that equals the end token, as in GPT-2: a test of masks.
    tokenizer.post_processor = None  # type: ignore[assignment]
    end = tokenizer.token_to_id("<end>")
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "vocab_size": tokenizer.get_vocab_size()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model(config(**sizes, **ids)).save_pretrained(folder)
    _write_tokenizer(folder, tokenizer, "<end>")
    return folder


def _write_transformers(folder: Path, cls: Any, config: Any, images: Any, tokenizer: Any, seed: int) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cls(config).save_pretrained(folder)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
