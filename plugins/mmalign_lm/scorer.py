"""Save a trunk with a linear head as a sequence classifier of transformers: a reward model has one label.

    save_scorer(module, head, tokenizer, folder, mean=0.3)
    AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits[:, 0] - config.mmalign_reward_mean

    save_classifier(module, head, tokenizer, folder, ("negative", "positive"))
    pipeline("text-classification", model=folder)("A film to remember.")            # [{"label": "positive", ...}]

The classifier takes the last token that is not padding, so padding gets a token of its own: one that equals the end
token would hide it. The mean score of good answers is in the config as `mmalign_reward_mean`. Where texts are classed,
the tokenizer that is saved writes the end token behind them, as training did. A family without a classifier in
transformers is saved as its language model, with the head beside it in head.safetensors, the rest in its metadata.
An adapter of the trunk is merged into what is written.
"""

import copy
import json
from collections.abc import Mapping
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


def save_scorer(
    module: "PreTrainedModel", head: nn.Linear, tokenizer: "PreTrainedTokenizerBase", folder: Path, mean: float
) -> bool:
    """Write a reward model; returns whether transformers loads it as a classifier."""
    return _save(module, head, copy.deepcopy(tokenizer), folder, {"num_labels": 1, "mmalign_reward_mean": mean})


def save_classifier(
    module: "PreTrainedModel",
    head: nn.Linear,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    classes: tuple[str, ...],
) -> bool:
    """Write a classifier of texts; returns whether transformers loads it as one."""
    names = dict(enumerate(classes))
    numbers = {name: number for number, name in names.items()}
    options = {"id2label": names, "label2id": numbers, "problem_type": "single_label_classification"}
    return _save(module, head, _ending(tokenizer), folder, options)


@torch.no_grad()
def _save(module: "PreTrainedModel", head: nn.Linear, tokenizer: Any, folder: Path, options: Mapping[str, Any]) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    classifier = _classifier(module, head, tokenizer, options)
    with quiet():
        if classifier is None:
            module.save_pretrained(folder, state_dict=merged_state(module))
            metadata = {name: json.dumps(value) for name, value in options.items()}
            save_file({"weight": head.weight.detach().cpu()}, folder / HEAD_FILE, metadata)
        else:
            classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return classifier is not None


def _classifier(module: "PreTrainedModel", head: nn.Linear, tokenizer: Any, options: Mapping[str, Any]) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(module.config)
    config.pad_token_id = None  # set below: the embedding may not hold it yet
    for name, value in options.items():
        setattr(config, name, value)
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


def _ending(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """A copy that writes the end token behind every text, if it does not do so already.

    One that is not made of `tokenizers` cannot be told to, and is copied as it is.
    """
    from tokenizers.processors import Sequence, TemplateProcessing

    tokenizer = copy.deepcopy(tokenizer)
    end = tokenizer.eos_token
    if not tokenizer.is_fast or tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        return tokenizer
    backend = tokenizer.backend_tokenizer
    ended = TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B:1 {end}:1", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    known = backend.post_processor
    backend.post_processor = ended if known is None else Sequence([known, ended])
    return tokenizer
