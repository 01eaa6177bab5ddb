r"""NEFTune: noise on a language model's embeddings in training (Jain 2023, algorithm 1).

    mmalign train --objective sft --backbone ./SmolLM2-135M --dataset answers.jsonl --set backbone.neftune_alpha=5

e' = e + alpha / sqrt(L d) u,    u uniform in [-1, 1]

e: a token's embedding [d]; L: tokens of its example, not of the row that it shares. The noise is an option of the
backbone, as dropout is, and not of one objective, because objectives know no embeddings. Like dropout it acts in
training mode only, draws from torch's generator (so it is replayed and resumed), and never reaches frozen roles,
evaluation or generation.
"""

import torch
from torch import Tensor


def noisy(embeddings: Tensor, lengths: Tensor, alpha: float) -> Tensor:
    """embeddings: [R, T, d]; lengths: [R, T], tokens of each token's example -> [R, T, d]."""
    bound = alpha / (lengths * embeddings.shape[-1]).to(embeddings.dtype).sqrt()
    return embeddings + bound[:, :, None] * (2 * torch.rand_like(embeddings) - 1)
