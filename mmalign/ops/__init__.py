"""Pure tensor functions that objectives share. Each has a slow, naive twin in tests/ops.

    from mmalign.ops import info_nce, token_logps

contrastive: losses over a global batch of pairs. logps: log-probabilities of tokens, from hidden states. preference,
ranking: losses over answers. policy_gradient: advantages, ratios and estimates of KL.
"""

from mmalign.ops.contrastive import default_chunk, info_nce, positives, sigmoid_pairs
from mmalign.ops.logps import Head, TokenLogps, sum_rows, token_logps

__all__ = ["Head", "TokenLogps", "default_chunk", "info_nce", "positives", "sigmoid_pairs", "sum_rows", "token_logps"]
