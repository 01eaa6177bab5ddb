"""Tell causal language models apart by their configs alone. Standard library only.

    is_causal_lm({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})    # True

A config without `architectures` (a trunk that was saved alone) has no head, and is no language model. A model with a
classification head names another class, so a reward model is not taken for a policy.
"""

from collections.abc import Mapping
from typing import Any

_HEADS = ("ForCausalLM", "LMHeadModel")


def is_causal_lm(config: Mapping[str, Any]) -> bool:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or config.get("is_encoder_decoder"):
        return False
    return any(isinstance(name, str) and name.endswith(_HEADS) for name in architectures)
