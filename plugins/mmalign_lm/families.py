"""Tell causal language models apart by their configs alone. Standard library only.

    is_causal_lm({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})    # True
    is_causal_lm({"gguf_architecture": "llama"})                                    # True

A config without `architectures` (a trunk that was saved alone) has no head, and is no language model. A model with a
classification head names another class, so a reward model is not taken for a policy. Of a GGUF file only the
architecture is known; those that transformers turns into causal language models are listed here.
"""

from collections.abc import Mapping
from typing import Any

_HEADS = ("ForCausalLM", "LMHeadModel")
# transformers 5.23, modeling_gguf_pytorch_utils.py, without the encoders (t5, umt5). llama.cpp writes Mistral as llama.
_GGUF = frozenset(
    "llama mistral qwen2 qwen2moe qwen3 qwen3moe phi3 bloom falcon stablelm gpt2 starcoder2 mamba nemotron gemma2 "
    "gemma3 lfm2 deci".split()
)


def is_causal_lm(config: Mapping[str, Any]) -> bool:
    if "gguf_architecture" in config:
        return config["gguf_architecture"] in _GGUF
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or config.get("is_encoder_decoder"):
        return False
    return any(isinstance(name, str) and name.endswith(_HEADS) for name in architectures)
