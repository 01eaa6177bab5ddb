"""A language model whose linear layers are held in 4 bits (NF4 with double quantisation; QLoRA, Dettmers 2023, arXiv
2305.14314), through bitsandbytes. Needs a CUDA GPU: on the CPU, bitsandbytes 0.50 quantises some blocks wrongly.

    require(options, source)                # before weights are loaded: raises where 4 bits are impossible
    module = load_module(folder, config)    # all of it frozen: an adapter trains on it
    unquantised(module, config)             # an ordinary float32 model on the CPU, adapter merged: `save` writes it

Embeddings, norms and the head stay in float32. Products are in bfloat16 on a GPU and, in tests, in float32 on the CPU.
"""

import copy
import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import UsageError
from mmalign.models.folder import draw_weights, load_exactly
from mmalign.models.lora import merged_state
from mmalign_lm.options import CausalLMConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from mmalign.contract.source import Source

TOLERANCE = 0.05  # relative, for the trials at loading, in bfloat16
_INSTEAD = "Leave backbone.load_in at float32"


def require(options: CausalLMConfig, source: "Source") -> None:
    """Raise UsageError where the options ask for 4 bits and they are impossible."""
    if options.load_in != "4bit":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "backbone.load_in=4bit needs the package bitsandbytes, which is not installed",
            hint=f'python -m pip install "mmalign[4bit]". Or: {_INSTEAD[0].lower()}{_INSTEAD[1:]}.',
        )
    if not has_gpu():
        raise UsageError("backbone.load_in=4bit needs a CUDA GPU, and torch sees none", hint=f"{_INSTEAD}.")
    wrong = {
        "random weights": options.random_weights or source.size,
        "a GGUF file, which is dequantised when it is read": source.file,
        "an adapter, which is merged into float weights": source.adapters,
    }
    for what, there in wrong.items():
        if there:
            raise UsageError(
                f"backbone.load_in=4bit takes saved float weights, and {source.reference} is {what}",
                hint=f"{_INSTEAD}, or give a folder that transformers or mmalign saved.",
            )


def has_gpu() -> bool:
    """Whether torch sees a CUDA GPU."""
    import torch

    return torch.cuda.is_available()


def load_module(folder: Path, config: "PreTrainedConfig") -> "PreTrainedModel":
    """The frozen model, on the GPU where there is one; raises CheckpointError."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    bitsandbytes: Any = importlib.import_module("bitsandbytes")
    on_gpu = torch.cuda.is_available()
    products = torch.bfloat16 if on_gpu else torch.float32
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=products
    )
    config = copy.deepcopy(config)  # transformers changes the config passed to it
    where = {"": "cuda" if on_gpu else "cpu"}
    module = load_exactly(AutoModelForCausalLM, folder, config=config, quantization_config=how, device_map=where)
    for layer in module.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.compute_type_is_set = True  # else the layer would compute in the first input's precision, float32
    return module.requires_grad_(False)


def unquantised(module: "PreTrainedModel", config: "PreTrainedConfig") -> "PreTrainedModel":
    """A new float32 model of the plain `config`: dequantised weights, with the adapter added."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    bitsandbytes: Any = importlib.import_module("bitsandbytes")
    state = module.state_dict()  # first: this restores the common order of weights that the CPU kernels repacked
    for name, layer in module.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight: Any = layer.weight
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.weight.")}
            wide = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
            state[f"{name}.weight"] = wide.cpu().float()  # the wide weights together would not fit on the GPU
    with torch.random.fork_rng(devices=[]):  # the drawn weights are replaced
        plain = draw_weights(AutoModelForCausalLM, config)
    merged = merged_state(module, state)
    for name, layer in plain.named_modules():
        if isinstance(layer, Conv1D):  # transposed when it was quantised
            merged[f"{name}.weight"] = merged[f"{name}.weight"].T
    plain.load_state_dict(merged)
    return plain
