"""The starting folder of stage one: a tokenizer of our own, Lite0 with the teacher's projection, and a text tower that
already reads a label as the sum of its tokens.

    train_tokenizer(corpus, folder)
    write_start(folder, tokenizer_folder, space, words, weights, targets, lite0)

The text tower's table of token vectors is the ridge regression of targets on bags of tokens; its first attention layer
starts as an average over tokens, the other blocks nearly silent. Stage one trains all of it. From random weights the
same training needs several times as long.
"""

import json
import math
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from teacher import Space, unit

VOCABULARY, CONTEXT, WIDTH, LAYERS = 16_384, 77, 256, 4
START, END, PAD = "<start_of_text>", "<end_of_text>", "<pad>"
RIDGE, NUM_ITERATIONS = 0.5, 40
NUM_CONTENT = WIDTH - 2  # the last two channels carry a constant, so that LayerNorm keeps a token's weight


def model_config() -> dict:
    """open_clip's description of clip-lite. `argmax` pooling finds the end token: its id is the highest."""
    vision = {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": 224,
    }
    text = {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": WIDTH,
        "heads": WIDTH // 64,
        "layers": LAYERS,
        "hf_tokenizer_name": "clip-lite",
        "pool_type": "argmax",
        "pad_id": 0,
        "eos_id": VOCABULARY - 1,
    }
    preprocess = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "size": 224,
    }
    model = {"embed_dim": WIDTH, "quick_gelu": False, "vision_cfg": vision, "text_cfg": text}
    return {"architecture": "clip-lite", "model_cfg": model, "preprocess_cfg": preprocess}


def train_tokenizer(corpus: Iterable[str], folder: Path) -> None:
    """A lower-casing byte-level BPE of 16,384 tokens: pad 0, start 16382, end 16383."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    bpe.add_special_tokens([START, END])
    assert bpe.token_to_id(END) == VOCABULARY - 1
    special = [(START, VOCABULARY - 2), (END, VOCABULARY - 1)]
    bpe.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        model_max_length=CONTEXT,
        padding_side="right",
    ).save_pretrained(folder)


def bag_of_tokens(bags: Sequence[Sequence[int]], weights: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """[VOCABULARY, D]: weighted ridge regression of goals [M, D] on token counts, by conjugate gradients."""
    import scipy.sparse as sparse

    lengths = [len(bag) for bag in bags]
    tokens = np.fromiter((token for bag in bags for token in bag), dtype=np.int64, count=sum(lengths))
    counts = sparse.csr_matrix(
        (np.ones(len(tokens), np.float32), tokens, np.concatenate([[0], np.cumsum(lengths)])),
        shape=(len(bags), VOCABULARY),
    )
    weighted = sparse.diags((weights / weights.mean()).astype(np.float32)) @ counts
    normal = (counts.T @ weighted).tocsr() + RIDGE * sparse.eye(VOCABULARY, dtype=np.float32)
    residual = np.asarray(weighted.T @ goals)
    scale = 1 / normal.diagonal()[:, None]
    solution, direction = np.zeros_like(residual), scale * residual
    size = (residual * direction).sum(0)
    for _ in range(NUM_ITERATIONS):
        image = normal @ direction
        step = size / ((direction * image).sum(0) + 1e-12)
        solution += step * direction
        residual = residual - step * image
        new_size = (residual * scale * residual).sum(0)
        direction = scale * residual + (new_size / (size + 1e-12)) * direction
        size = new_size
    return solution.astype(np.float32)


def write_start(
    folder: Path,
    tokenizer: Path,
    space: Space,
    words: Sequence[str],
    weights: np.ndarray,
    targets: np.ndarray,
    lite0: Mapping,
) -> np.ndarray:
    """Write the open_clip folder and return the basis [256, 512] onto which targets and anchors are projected."""
    import torch
    from open_clip import OPENAI_IMAGENET_TEMPLATES
    from open_clip.model import CLIP
    from safetensors.torch import save_file
    from transformers import PreTrainedTokenizerFast

    rooted = targets * np.sqrt(weights / weights.mean())[:, None]
    basis = np.linalg.svd(rooted.T @ rooted)[2][:WIDTH].astype(np.float32)
    tokens = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    rng = random.Random(0)
    worded = [rng.choice(OPENAI_IMAGENET_TEMPLATES)(word) for word in words]
    texts = [*words, *worded, *(f"a photo of a {word}" for word in words)]
    bags = tokens(texts, add_special_tokens=False).input_ids
    goals = np.tile(unit(targets @ basis.T)[:, :NUM_CONTENT], (3, 1))
    table = bag_of_tokens(bags, np.tile(weights, 3), goals)

    torch.manual_seed(0)
    config = model_config()
    model = CLIP(**json.loads(json.dumps(config["model_cfg"])))
    trunk = {name: tensor for name, tensor in lite0.items() if not name.startswith("classifier")}
    model.visual.trunk.load_state_dict(trunk)
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(torch.from_numpy(basis @ space.weight))
        model.visual.head.proj.bias.copy_(torch.from_numpy(basis @ space.bias))
        model.logit_scale.fill_(math.log(30.0))
        _start_as_sum(model, torch.from_numpy(table))
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return basis


def _start_as_sum(model, table) -> None:
    import torch

    embedding = model.token_embedding.weight
    embedding.zero_()
    embedding[:, :NUM_CONTENT] = table
    embedding[:, NUM_CONTENT], embedding[:, NUM_CONTENT + 1] = 0.7, -0.7
    model.positional_embedding.mul_(0.5)
    first, *others = model.transformer.resblocks
    first.attn.in_proj_weight[: 2 * WIDTH] *= 0.3
    first.attn.in_proj_weight[2 * WIDTH :] = torch.eye(WIDTH)
    first.attn.out_proj.weight.copy_(torch.eye(WIDTH))
    first.mlp.c_proj.weight *= 0.3
    for block in others:
        block.mlp.c_proj.weight *= 0.3
        block.attn.out_proj.weight *= 0.3
    model.text_projection[:NUM_CONTENT] = torch.eye(NUM_CONTENT, WIDTH)
    model.text_projection[NUM_CONTENT:] = torch.randn(2, WIDTH) * 0.02
