"""Save a trunk with a scalar head as a reward model that transformers loads as a sequence classifier with one label.

    save_scorer(module, head, tokenizer, folder, mean=0.3)
    AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits[:, 0] - config.mmalign_reward_mean

The classifier takes the last token that is not padding, so padding gets a token of its own: one that equals the end
token would hide it. The mean score of good answers is in the config as `mmalign_reward_mean`. A family without a
classifier in transformers is saved as its language model, with the head beside it in head.safetensors. An
adapter of the trunk is merged into what is written.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from mmalign.lora import merged_state
from mmalign.pretrained import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEAD_FILE = "head.safetensors"
PAD_TOKEN = "<|mmalign_pad|>"


@torch.no_grad()
def save_scorer(
    module: "PreTrainedModel", head: nn.Linear, tokenizer: "PreTrainedTokenizerBase", folder: Path, mean: float
) -> bool:
    """Write the folder; returns whether transformers loads it as a classifier."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    classifier = _classifier(module, head, tokenizer, mean)
    with quiet():
        if classifier is None:
            module.save_pretrained(folder, state_dict=merged_state(module))
            save_file({"weight": head.weight.detach().cpu(), "mean": torch.tensor(mean)}, folder / HEAD_FILE)
        else:
            classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return classifier is not None


def _classifier(module: "PreTrainedModel", head: nn.Linear, tokenizer: Any, mean: float) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(module.config)
    config.num_labels = 1
    config.pad_token_id = None  # set below: the embedding may not hold it yet
    config.mmalign_reward_mean = mean
    try:
        with torch.random.fork_rng(devices=[]):
            classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError:  # transformers has none for this family
        return None
    classifier.base_model.load_state_dict(merged_state(module.base_model))
    (score,) = [
        child for name, child in classifier.named_children() if name != classifier.base_model_prefix
    ]  # a linear layer, by whatever name
    score.weight.copy_(head.weight)
    if len(tokenizer) > config.vocab_size:
        classifier.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return classifier
