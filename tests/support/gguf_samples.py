"""A tiny Llama written as a GGUF file by llama.cpp's own package, with a byte-pair tokenizer and quantised weights."""

import json
from pathlib import Path

import torch

from mmalign.testing.models import tiny_tokenizer

WIDTH, HIDDEN, LAYERS, CONTEXT = 32, 64, 2, 32


def tiny_gguf(path: Path, *, seed: int = 0, quantised: bool = True) -> Path:
    """Needs the package gguf. End token and padding are one token, as in SmolLM2; the head is the embedding."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    tokens = _write_tokenizer(writer)
    writer.add_vocab_size(tokens)
    generator = torch.Generator().manual_seed(seed)
    kinds = gguf.GGMLQuantizationType

    def matrix(name: str, rows: int, columns: int) -> None:
        values = torch.randn(rows, columns, generator=generator).mul(0.3).numpy()
        if quantised:
            writer.add_tensor(name, gguf.quants.quantize(values, kinds.Q8_0), raw_dtype=kinds.Q8_0)
        else:
            writer.add_tensor(name, values)

    matrix("token_embd.weight", tokens, WIDTH)
    writer.add_tensor("output_norm.weight", torch.ones(WIDTH).numpy())
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH), ("attn_k", WIDTH // 2, WIDTH), ("attn_v", WIDTH // 2, WIDTH),
            ("attn_output", WIDTH, WIDTH), ("ffn_gate", HIDDEN, WIDTH), ("ffn_up", HIDDEN, WIDTH),
            ("ffn_down", WIDTH, HIDDEN),
        ):  # fmt: skip
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", torch.ones(WIDTH).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer) -> int:
    """Returns the number of tokens."""
    model = json.loads(tiny_tokenizer().to_str())["model"]
    tokens = [name for name, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    tokens += ["<start>", "<end>"]
    end = len(tokens) - 1
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if name in ("<pad>", "<start>", "<end>") else 1 for name in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(end - 1)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    return len(tokens)
