"""Counts the parameters of a causal language model from its config alone: it builds the model without memory for
weights.

model_size(source, options)      # ModelSize(parameters=4_830_720, random=False)
"""

from typing import TYPE_CHECKING

from mmalign.models.folder import offline, quiet, unreadable, weightless
from mmalign.models.size import ModelSize
from mmalign_lm import scratch
from mmalign_lm.options import CausalLMConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from mmalign.contract.source import Source


def model_size(source: "Source", options: CausalLMConfig) -> ModelSize:
    """The size, or 0 parameters where the config says too little: a GGUF file's, or one from which transformers cannot
    build."""
    random = bool(source.size) or options.random_weights
    if source.size:
        return ModelSize(count_parameters(scratch.read_config(source, options)), random)
    if source.file is not None:
        return ModelSize(0, random)
    from transformers import AutoConfig

    try:
        with offline():
            config = AutoConfig.for_model(**source.config)
        return ModelSize(count_parameters(config), random)
    except (*unreadable(), AssertionError):  # loading reports what is wrong
        return ModelSize(0, random)


def count_parameters(config: "PreTrainedConfig") -> int:
    """Of the model with its head; tied ones once. Draws no random numbers."""
    from transformers import AutoModelForCausalLM

    with quiet(), weightless():
        return AutoModelForCausalLM.from_config(config).num_parameters()
