"""Shapes of language models that start from random weights, by published size. Standard library only.

    GPT_2["355m"]                          # {"architectures": ["GPT2LMHeadModel"], "num_hidden_layers": 24, ...}
    reshaped(LLAMA["42m"], layers=4)       # another depth; widths keep the shape's proportions

A size counts the parameters with the tokenizer that it was published with; under a smaller vocabulary there are fewer.
All are written with transformers' common names, whatever a family calls them in its own config.

GPT-1: Radford 2018, "Improving Language Understanding by Generative Pre-Training": norms after each sublayer. GPT-2:
Radford 2019, "Language Models are Unsupervised Multitask Learners". Llama: Touvron 2023, arXiv 2302.13971 (7b), Zhang
2024, arXiv 2401.02385 (TinyLlama, 1.1b), and Karpathy 2023, https://github.com/karpathy/llama2.c (the smaller ones).
"""

import math
from collections.abc import Mapping
from typing import Any

from mmalign.errors import UsageError

Shape = Mapping[str, Any]

_INNER_MULTIPLE = 32  # of llama2.c's inner widths, which are 8/3 of the width


def _gpt(model_type: str, architecture: str, layers: int, width: int, heads: int, context: int) -> Shape:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
    }


def _llama(
    layers: int, width: int, heads: int, context: int, *, groups: int = 0, inner: int = 0, tied: bool = True
) -> Shape:
    return {
        **_gpt("llama", "LlamaForCausalLM", layers, width, heads, context),
        "num_key_value_heads": groups or heads,
        "intermediate_size": inner or _inner_width(width),
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
    }


def _check_heads(width: int, heads: int, *, even: bool) -> None:
    step = 2 if even else 1  # rotary positions turn pairs
    if heads and width % (heads * step) == 0:
        return
    raise UsageError(
        f"backbone.width={width} cannot be divided among {heads} heads" + (" in pairs" if even else ""),
        hint=f"Give a multiple of {'twice ' if even else ''}backbone.heads.",
    )


def _inner_width(width: int) -> int:
    return _INNER_MULTIPLE * math.ceil(8 * width / 3 / _INNER_MULTIPLE)


GPT_1 = {"117m": _gpt("openai-gpt", "OpenAIGPTLMHeadModel", 12, 768, 12, 512)}
GPT_2 = {
    "124m": _gpt("gpt2", "GPT2LMHeadModel", 12, 768, 12, 1024),
    "355m": _gpt("gpt2", "GPT2LMHeadModel", 24, 1024, 16, 1024),
    "774m": _gpt("gpt2", "GPT2LMHeadModel", 36, 1280, 20, 1024),
    "1.5b": _gpt("gpt2", "GPT2LMHeadModel", 48, 1600, 25, 1024),
}
LLAMA = {
    "15m": _llama(6, 288, 6, 256),
    "42m": _llama(8, 512, 8, 1024),
    "110m": _llama(12, 768, 12, 1024),
    "1.1b": _llama(22, 2048, 32, 2048, groups=4, inner=5632, tied=False),
    "7b": _llama(32, 4096, 32, 2048, inner=11008, tied=False),
}
# With gpt-mini's tokenizer, the default; the names count parameters with the published tokenizers.
PARAMETERS = {
    "gpt-1": {"117m": 90_166_272},
    "gpt-2": {"124m": 90_561_024, "355m": 309_651_456, "774m": 717_565_440, "1.5b": 1_487_030_400},
    "llama": {
        "15m": 7_745_184,
        "42m": 28_451_328,
        "110m": 89_672_448,
        "1.1b": 994_142_208,
        "7b": 6_526_603_264,
    },
}


def reshaped(shape: Shape, *, layers: int = 0, width: int = 0, heads: int = 0, context_length: int = 0) -> Shape:
    """A shape with other sizes; 0 keeps a size. Raises UsageError where the heads do not divide the width.

    Another width keeps the width of a head, unless `heads` is given too. Where the family has these: another width or
    number of heads gives each head its own keys and values, and another width an inner width of 8/3 of it.
    """
    wide, many = shape["hidden_size"], shape["num_attention_heads"]
    new_width, per_head = width or wide, wide // many
    if not heads and new_width % per_head:
        raise UsageError(
            f"backbone.width={width} is not a multiple of {per_head}, the width of a head",
            hint=f"Try: --set backbone.width={per_head * max(1, round(width / per_head))}; or set backbone.heads too.",
        )
    new_heads = heads or new_width // per_head
    _check_heads(new_width, new_heads, even=shape["model_type"] == "llama")
    changed = {
        **shape,
        "num_hidden_layers": layers or shape["num_hidden_layers"],
        "hidden_size": new_width,
        "num_attention_heads": new_heads,
        "max_position_embeddings": context_length or shape["max_position_embeddings"],
    }
    if "num_key_value_heads" in shape and (new_width, new_heads) != (wide, many):
        changed["num_key_value_heads"] = new_heads
    if "intermediate_size" in shape and new_width != wide:
        changed["intermediate_size"] = _inner_width(new_width)
    return changed
