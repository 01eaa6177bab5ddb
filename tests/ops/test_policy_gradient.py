"""Maths of policy gradients against loops over single tokens."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmalign.ops.policy_gradient import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    group_relative,
    kl_estimate,
    leave_one_out,
    truncated_weights,
    whiten,
)

LENGTHS = torch.tensor([3, 1, 5, 2])
OFFSETS = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])


def tokens(seed: int) -> torch.Tensor:
    return torch.randn(int(LENGTHS.sum()), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def double_loop(rewards: torch.Tensor, values: torch.Tensor, gamma: float, lam: float) -> list[float]:
    """A_t as the sum over all later differences, each discounted anew: no recursion."""
    found = []
    for r, v in zip(rewards.split(LENGTHS.tolist()), values.split(LENGTHS.tolist()), strict=True):
        following = [*v.tolist()[1:], 0.0]
        delta = [float(r[t]) + gamma * following[t] - float(v[t]) for t in range(len(r))]
        found += [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(r))) for t in range(len(r))]
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_gae_equals_a_double_loop(gamma: float, lam: float) -> None:
    rewards, values = tokens(0), tokens(1)
    advantages, returns = gae(rewards, values, OFFSETS, gamma, lam)
    expected = torch.tensor(double_loop(rewards, values, gamma, lam), dtype=torch.float64)
    assert torch.allclose(advantages, expected, rtol=0, atol=1e-12)
    assert torch.equal(returns, advantages + values)


def test_gae_with_lambda_one_is_what_is_still_to_come_less_the_value() -> None:
    rewards, values = tokens(2), tokens(3)
    advantages, returns = gae(rewards, values, OFFSETS, 1.0, 1.0)
    to_come = torch.cat([row.flip(0).cumsum(0).flip(0) for row in rewards.split(LENGTHS.tolist())])
    assert torch.allclose(returns, to_come, atol=1e-12)
    assert torch.allclose(advantages, to_come - values, atol=1e-12)


def test_gae_with_lambda_zero_is_one_step() -> None:
    rewards, values = tokens(4), tokens(5)
    advantages, _ = gae(rewards, values, OFFSETS, 0.9, 0.0)
    following = torch.cat([torch.cat([row[1:], row.new_zeros(1)]) for row in values.split(LENGTHS.tolist())])
    assert torch.allclose(advantages, rewards + 0.9 * following - values, atol=1e-12)


def test_kl_estimates_and_their_gradients() -> None:
    logp = torch.tensor([-1.0, -0.2], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.5, -2.0], dtype=torch.float64)
    d = [float(p) - float(q) for p, q in zip(logp.detach(), reference, strict=True)]  # log p - log q
    expected = {
        "k1": (d, [1.0, 1.0]),
        "k2": ([x * x / 2 for x in d], d),
        "k3": ([math.exp(-x) - 1 + x for x in d], [1 - math.exp(-x) for x in d]),
    }
    for kind, (values, slopes) in expected.items():
        found = kl_estimate(logp, reference, kind)
        (grad,) = torch.autograd.grad(found.sum(), logp)
        assert torch.allclose(found, torch.tensor(values, dtype=torch.float64), atol=1e-12), kind
        assert torch.allclose(grad, torch.tensor(slopes, dtype=torch.float64), atol=1e-12), kind


def test_kl_estimates_are_unbiased_where_they_say_so() -> None:
    """The mean over the policy's own distribution, exactly: k1 and k3 give the divergence, and k2's gradient is its."""
    logits = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(0)
    logp = logits.log_softmax(0)
    p = logp.exp()
    divergence = (p * (logp - other)).sum()
    for kind in ("k1", "k3"):
        assert torch.allclose((p * kl_estimate(logp, other, kind)).sum(), divergence, atol=1e-12), kind
    (expected,) = torch.autograd.grad(divergence, logits, retain_graph=True)
    (found,) = torch.autograd.grad((p.detach() * kl_estimate(logp, other, "k2")).sum(), logits)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("cuts", [(11,), (4, 7), (1, 10), (3, 0, 3, 5)])
def test_whitening_is_of_all_processes_together(cuts: tuple[int, ...]) -> None:
    """Threads in place of processes: `total` waits for all and gives each the sum, as an all-reduce does."""
    values = 1000 + tokens(6)
    expected = (values - values.mean()) / (values.var(correction=0) + 1e-8).sqrt()
    barrier, given = threading.Barrier(len(cuts)), {}

    def run(rank: int, share: torch.Tensor) -> torch.Tensor:
        def total(tensor: torch.Tensor) -> torch.Tensor:
            given[rank] = tensor
            barrier.wait(10)
            found = torch.stack([given[other] for other in range(len(cuts))]).sum(0)
            barrier.wait(10)
            return found

        return whiten(share, total)

    with ThreadPoolExecutor(len(cuts)) as pool:
        found = torch.cat(list(pool.map(run, range(len(cuts)), values.split(cuts))))
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


def test_policy_loss_is_the_worse_of_free_and_clipped() -> None:
    logps, old = tokens(7), tokens(8)
    advantages = tokens(9)
    losses, clipped = clipped_policy_loss(logps, old, advantages, 0.2, 0.3)
    for i in range(len(logps)):
        ratio, a = math.exp(float(logps[i] - old[i])), float(advantages[i])
        held = min(max(ratio, 0.8), 1.3)
        assert float(losses[i]) == pytest.approx(max(-a * ratio, -a * held), abs=1e-12)
        assert bool(clipped[i]) == (-a * held > -a * ratio)


@pytest.mark.parametrize("gap", [0.5, 60.0, 95.0, 4000.0])
def test_a_gain_that_is_held_has_no_gradient_however_far_it_went(gap: float) -> None:
    """A whole answer's ratio may be past the largest float32: what the clip holds is finite all the same."""
    logps = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    old, advantages = torch.tensor([-1.0 - gap, -1.0 - gap, -1.0]), torch.tensor([2.0, 0.0, 2.0])
    losses, clipped = clipped_policy_loss(logps, old, advantages, 0.2, 0.3)
    assert losses.tolist() == pytest.approx([-2.6, 0.0, -2.0]) and clipped.tolist() == [True, False, False]
    (grad,) = torch.autograd.grad(losses.sum(), logps)
    assert grad.tolist() == [0.0, 0.0, -2.0]


def test_importance_weights_are_cut_off_and_carry_no_gradient() -> None:
    log_ratio = torch.cat([tokens(7), torch.tensor([200.0, -200.0])]).double().requires_grad_()
    weights, truncated = truncated_weights(log_ratio, 1.5)
    expected = [min(math.exp(x), 1.5) for x in log_ratio.tolist()]
    assert weights.tolist() == pytest.approx(expected) and not weights.requires_grad
    assert truncated.tolist() == [math.exp(x) > 1.5 for x in log_ratio.tolist()]
    assert 0 < int(truncated.sum()) < len(weights)


def test_value_loss_is_the_worse_of_free_and_clipped() -> None:
    values, old, returns = tokens(10), tokens(11), tokens(12)
    for clip in (0.2, 0.0):
        losses = clipped_value_loss(values, old, returns, clip)
        for i in range(len(values)):
            v, o, r = float(values[i]), float(old[i]), float(returns[i])
            held = min(max(v, o - clip), o + clip) if clip else v
            assert float(losses[i]) == pytest.approx(max((v - r) ** 2, (held - r) ** 2) / 2, abs=1e-12)


def test_siblings() -> None:
    scores = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(13))
    others, relative = leave_one_out(scores), group_relative(scores, scale=True)
    for n in range(3):
        row = scores[n].tolist()
        mean = sum(row) / 4
        deviation = (sum((x - mean) ** 2 for x in row) / 3) ** 0.5
        for k in range(4):
            rest = [row[j] for j in range(4) if j != k]
            assert float(others[n, k]) == pytest.approx(row[k] - sum(rest) / 3, abs=1e-12)
            assert float(relative[n, k]) == pytest.approx((row[k] - mean) / (deviation + 1e-4), abs=1e-12)
    assert torch.allclose(others, group_relative(scores, scale=False) * 4 / 3, atol=1e-12)


def test_siblings_that_score_the_same_have_no_advantage_at_all() -> None:
    """To the bit: rounding that is left over, whitened or scaled by Adam, would be learnt from. Nor does a large mean
    drown differences."""
    tied = torch.tensor([[0.1] * 3, [0.7] * 3, [1e7] * 3])
    apart = torch.tensor([[4097.0, 4096.5, 4096.0, 4096.25, 4098.0]])
    for function in (leave_one_out, lambda scores: group_relative(scores, scale=True)):
        assert not function(tied).any()
        assert torch.allclose(function(apart), function(apart.double()).float(), rtol=1e-6, atol=0)
