"""Saves a trunk with a linear head as a sequence classifier of transformers; a reward model has one label.

    save_scorer(module, head, tokenizer, folder, mean=0.3)
    AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits[:, 0] - config.mmalign_reward_mean
    scorer = load_scorer(folder, config)                                    # .trunk, .head, from either saved form

    save_classifier(module, head, tokenizer, folder, ("negative", "positive"))
    pipeline("text-classification", model=folder)("A film to remember.")            # [{"label": "positive", ...}]

The classifier reads the last token that is not padding, so padding gets a token of its own; if it equalled the end
token, it would hide that token. The mean score of good answers is in the config as `mmalign_reward_mean`. For a
classifier of texts, the saved tokenizer appends the end token to every text, as training did. A family without a
classifier in transformers is saved as its language model, with the head beside it in head.safetensors and the rest in
the config. An adapter on the trunk is merged into the saved weights.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmalign.errors import CheckpointError
from mmalign.models.folder import draw_weights, load_exactly, quiet, unreadable
from mmalign.models.lora import merged_state
from mmalign_lm.endings import ending
from mmalign_lm.families import REWARD_MEAN
from mmalign_lm.trunk import below_head

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

HEAD_FILE = "head.safetensors"
PAD_TOKEN = "<|mmalign_pad|>"


def save_scorer(
    module: "PreTrainedModel", head: nn.Linear, tokenizer: "PreTrainedTokenizerBase", folder: Path, mean: float
) -> bool:
    """Write a reward model; returns whether transformers loads it as a classifier."""
    return _save(module, head, tokenizer, folder, {"num_labels": 1, REWARD_MEAN: mean})


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
    return _save(module, head, ending(tokenizer), folder, options)


@torch.no_grad()
def _save(module: "PreTrainedModel", head: nn.Linear, tokenizer: Any, folder: Path, options: Mapping[str, Any]) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    padded = copy.deepcopy(tokenizer)
    if padded.pad_token_id in (None, padded.eos_token_id):
        padded.add_special_tokens({"pad_token": PAD_TOKEN})
    classifier = _classifier(module, head, padded, options)
    with quiet():
        if classifier is None:
            save_beside(module, head, folder, options)
            tokenizer.save_pretrained(folder)
        else:
            classifier.save_pretrained(folder)
            padded.save_pretrained(folder)
    return classifier is not None


def save_beside(module: "PreTrainedModel", head: nn.Linear, folder: Path, options: Mapping[str, Any]) -> None:
    """Write the language model, its head in a separate file, and the purpose of the head in the config."""
    module.save_pretrained(folder, state_dict=merged_state(module))
    config = copy.deepcopy(module.config)
    for name, value in options.items():
        setattr(config, name, value)
    config.save_pretrained(folder)
    save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD_FILE)


class Scorer(nn.Module):
    """A language model with a scalar head on its trunk, as one module. The model's output layer is not used."""

    def __init__(self, model: "PreTrainedModel", head: nn.Linear) -> None:
        super().__init__()
        self.model, self.head = model, head


def load_scorer(folder: Path, config: "PreTrainedConfig") -> "Scorer | PreTrainedModel":
    """transformers' classifier, or a Scorer where the head lies beside a language model; raises CheckpointError."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    path = folder / HEAD_FILE
    if not path.is_file():
        return load_exactly(AutoModelForSequenceClassification, folder, config=config)
    model = load_exactly(AutoModelForCausalLM, folder, config=config)
    try:
        weight = load_file(path)["weight"]
        head = nn.Linear(weight.shape[1], 1, bias=False)
        head.load_state_dict({"weight": weight})
    except unreadable() as error:
        raise CheckpointError(f"{path}: the head cannot be read: {error}") from error
    return Scorer(model, head)


def parts_of(scorer: "Scorer | PreTrainedModel") -> tuple[nn.Module, nn.Linear]:
    """(trunk, head)."""
    if isinstance(scorer, Scorer):
        return below_head(scorer.model), scorer.head
    return scorer.base_model, _head_of(scorer)


def _head_of(classifier: "PreTrainedModel") -> nn.Linear:
    """The linear layer, under any name; raises CheckpointError for a head that is more than that."""
    heads = [child for name, child in classifier.named_children() if name != classifier.base_model_prefix]
    linear = [child for child in heads if isinstance(child, nn.Linear)]
    if len(heads) != 1 or len(linear) != 1:
        raise CheckpointError(f"{type(classifier).__name__} scores with more than a linear layer on its last token")
    return linear[0]


def _classifier(module: "PreTrainedModel", head: nn.Linear, tokenizer: Any, options: Mapping[str, Any]) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(module.config)
    config.pad_token_id = None  # set below: the embedding may have no row for it yet
    for name, value in options.items():
        setattr(config, name, value)
    try:
        with torch.random.fork_rng(devices=[]):
            classifier = draw_weights(AutoModelForSequenceClassification, config)
    except ValueError:  # transformers has none for this family
        return None
    classifier.base_model.load_state_dict(merged_state(module.base_model))
    _head_of(classifier).weight.copy_(head.weight)
    if len(tokenizer) > config.vocab_size:
        classifier.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return classifier
