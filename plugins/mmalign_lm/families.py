"""Tells causal language models and reward models apart by their configs alone. Standard library only.

    is_causal_lm({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})                           # True
    is_causal_lm({"gguf_architecture": "llama"})                                                           # True
    is_reward_model({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}})   # True

A config without `architectures` is of a trunk saved alone: it has no head and is no language model. A reward model is a
classifier with one label, or a language model whose config holds `mmalign_reward_mean` and whose head is saved beside
it. A GGUF file states only its architecture; those that transformers reads as causal language models are listed here.
"""

from collections.abc import Mapping
from typing import Any

REWARD_MEAN = "mmalign_reward_mean"
_HEADS = ("ForCausalLM", "LMHeadModel")
_CLASSIFIER = "ForSequenceClassification"
# transformers 5.23, modeling_gguf_pytorch_utils.py, without the encoders (t5, umt5). llama.cpp writes Mistral as llama.
_GGUF = frozenset(
    "llama mistral qwen2 qwen2moe qwen3 qwen3moe phi3 bloom falcon stablelm gpt2 starcoder2 mamba nemotron gemma2 "
    "gemma3 lfm2 deci".split()
)


def is_causal_lm(config: Mapping[str, Any]) -> bool:
    if "gguf_architecture" in config:
        return config["gguf_architecture"] in _GGUF
    return _has_head(config, _HEADS) and REWARD_MEAN not in config


def is_reward_model(config: Mapping[str, Any]) -> bool:
    labels = config.get("id2label")
    one_label = isinstance(labels, Mapping) and len(labels) == 1
    return (one_label and _has_head(config, _CLASSIFIER)) or (REWARD_MEAN in config and _has_head(config, _HEADS))


def _has_head(config: Mapping[str, Any], names: str | tuple[str, ...]) -> bool:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or config.get("is_encoder_decoder"):
        return False
    return any(isinstance(name, str) and name.endswith(names) for name in architectures)
