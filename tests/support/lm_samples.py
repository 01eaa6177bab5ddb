"""What the tests of language models share: families, sequences, and log-probabilities the slow way."""

from typing import Any

import torch

from mmalign.language.sequences import Sequences

FAMILIES = ("tiny_llama", "tiny_gpt2", "tiny_bloom")


def some_sequences(seed: int = 0) -> Sequences:
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> torch.Tensor:
        return torch.randint(1, 300, (length,), generator=generator)

    prompts, answers = (
        [ids(4), ids(0), ids(7), ids(1)],
        [[ids(3), ids(5)], [ids(9)], [ids(1), ids(2), ids(8)], [ids(4)]],
    )
    return Sequences.from_lists(prompts, answers)


def some_pairs() -> Sequences:
    """Two answers of different lengths behind each of two prompts."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(1, 300, (length,), generator=generator) for length in (4, 2, 3, 6, 5, 1)]
    return Sequences.from_lists(ids[:2], [ids[2:4], ids[4:]])


def naive_logps(module: Any, sequences: Sequences) -> torch.Tensor:
    """Each answer with its prompt alone through transformers' model, whole logits."""
    found, prompts = [], sequences.prompts.rows()
    for owner, answer in zip(sequences.owner.tolist(), sequences.answers.rows(), strict=True):
        row = torch.cat([prompts[owner], answer])
        logps = module(input_ids=row[None]).logits[0].log_softmax(-1)[:-1].gather(1, row[1:, None])[:, 0]
        found.append(logps[-len(answer) :] if len(prompts[owner]) else logps)
    return torch.cat(found)
