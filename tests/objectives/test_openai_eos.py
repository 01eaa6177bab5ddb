"""`openai_eos`: a score behind the end token is the same as GAE over rows that are one state longer."""

import torch

from mmalign.ops.rl import gae


def test_the_moved_score_gives_the_advantages_of_longer_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, gamma, lam = [4, 1, 3], 0.9, 0.8
    offsets = torch.tensor([0, 4, 5, 8])
    kl, values = (torch.randn(8, dtype=torch.float64, generator=generator) for _ in range(2))
    score, ends = (torch.randn(3, dtype=torch.float64, generator=generator) for _ in range(2))
    last = offsets[1:] - 1
    moved = gamma * ends + gamma * lam * (score - ends)
    found, returns = gae((-kl).index_add(0, last, moved), values, offsets, gamma, lam)

    longer_rewards = torch.cat([torch.cat([-r, s[None]]) for r, s in zip(kl.split(lengths), score, strict=True)])
    longer_values = torch.cat([torch.cat([v, e[None]]) for v, e in zip(values.split(lengths), ends, strict=True)])
    longer = torch.tensor([0, 5, 7, 11])
    expected, more = gae(longer_rewards, longer_values, longer, gamma, lam)
    behind = longer[1:] - 1
    keep = torch.ones(11, dtype=torch.bool).index_fill(0, behind, False)
    assert torch.allclose(found, expected[keep], atol=1e-12)
    assert torch.allclose(returns, more[keep], atol=1e-12)
    assert torch.allclose(more[behind], score, atol=1e-12)
