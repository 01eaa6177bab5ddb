"""Pure tensor functions that objectives share. Each has a slow, naive twin in tests/core/test_ops*.py.

    from mmalign.ops import info_nce, token_logps

pairwise: contrastive losses over a global batch. logps: log-probabilities of tokens from hidden states.
"""

from mmalign.ops.logps import Head, TokenLogps, sum_rows, token_logps
from mmalign.ops.pairwise import default_chunk, info_nce, positives, sigmoid_pairs

__all__ = ["Head", "TokenLogps", "default_chunk", "info_nce", "positives", "sigmoid_pairs", "sum_rows", "token_logps"]
