"""Ranking losses against loops over pairs and permutations: ties, padding, two answers, gradients."""

import itertools
import math

import pytest
import torch

from mmalign.ops.preference import plackett_luce, ranked_pairs

SCORES = torch.tensor([[0.3, -1.2, 2.0, 0.1], [1.0, 1.0, -0.5, 9.0], [0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)
RANKS = torch.tensor([[1, 3, 2, 2], [1, 1, 2, 7], [1, 1, 1, 1]], dtype=torch.float64)
PRESENT = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)


def naive_pairs(n: int, margin: float, split_ties: bool) -> tuple[float, int]:
    losses = []
    for i, j in itertools.permutations(range(4), 2):
        if PRESENT[n, i] and PRESENT[n, j]:
            gap, d = float(RANKS[n, j] - RANKS[n, i]), float(SCORES[n, i] - SCORES[n, j])
            if gap > 0:
                losses.append(math.log1p(math.exp(-(d - margin * gap))))
            elif gap == 0 and i < j and split_ties:
                losses.append((math.log1p(math.exp(-d)) + math.log1p(math.exp(d))) / 2)
    return (sum(losses) / len(losses), 1) if losses else (0.0, 0)


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("split_ties", [False, True])
def test_pairs_equal_naive(margin, split_ties) -> None:
    def loss(difference, gap):
        return torch.log1p(torch.exp(-(difference - margin * gap)))

    found = ranked_pairs(SCORES, RANKS, PRESENT, loss, split_ties=split_ties)
    for n in range(3):
        expected, number = naive_pairs(n, margin, split_ties)
        assert float(found.losses[n]) == pytest.approx(expected, abs=1e-12) and found.counted[n] == number
    assert found.pairs.tolist() == [5, 2, 0] and found.right.tolist() == [4.0, 2.0, 0.0]


@pytest.mark.parametrize("split_ties", [False, True])
def test_near_ranks_are_ties_where_asked(split_ties) -> None:
    near = torch.tensor([[1.0, 1.4, 3.0], [1.0, 1.5, 1.2]], dtype=torch.float64)
    same = torch.tensor([[1.0, 1.0, 3.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    present = torch.ones(2, 3, dtype=torch.bool)
    found = ranked_pairs(SCORES[:2, :3], near, present, tie=0.5, split_ties=split_ties)
    expected = ranked_pairs(SCORES[:2, :3], same, present, split_ties=split_ties)
    assert torch.equal(found.losses, expected.losses) and torch.equal(found.counted, expected.counted)


def test_pairs_far_apart_and_margins_equal_a_loop() -> None:
    found = ranked_pairs(SCORES, RANKS, PRESENT, apart=2.0)
    for n in range(3):
        right = pairs = margins = 0.0
        for i, j in itertools.permutations(range(4), 2):
            gap, d = float(RANKS[n, j] - RANKS[n, i]), float(SCORES[n, i] - SCORES[n, j])
            if PRESENT[n, i] and PRESENT[n, j] and gap > 0:
                margins += d
                pairs += gap >= 2
                right += (gap >= 2) * (1.0 if d > 0 else 0.5 if d == 0 else 0.0)
        assert (found.pairs_apart[n], found.right_apart[n]) == (pairs, right)
        assert float(found.margins[n]) == pytest.approx(margins, abs=1e-12)


def test_two_answers_are_a_pair_and_both_losses_agree() -> None:
    scores = torch.tensor([[0.4, -0.3], [1.0, 2.0]], dtype=torch.float64)
    ranks = torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    present = torch.ones(2, 2, dtype=torch.bool)
    expected = -torch.nn.functional.logsigmoid(scores[:, 0] - scores[:, 1])
    torch.testing.assert_close(ranked_pairs(scores, ranks, present)[0], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plackett_luce(scores, ranks, present)[0], expected, rtol=1e-12, atol=1e-12)


def test_plackett_luce_is_the_probability_of_the_order() -> None:
    scores = torch.tensor([[0.3, -1.2, 2.0]], dtype=torch.float64)
    total = 0.0
    for order in itertools.permutations(range(3)):
        ranks = torch.tensor([[float(order.index(k) + 1) for k in range(3)]], dtype=torch.float64)
        loss, counted = plackett_luce(scores, ranks, torch.ones(1, 3, dtype=torch.bool))
        total += math.exp(-2 * float(loss[0]))  # two draws; the last answer is drawn for sure
        assert counted[0] == 1
    assert total == pytest.approx(1.0, abs=1e-12)


def test_absent_answers_and_ties_give_no_gradient_and_no_nan() -> None:
    for function in (ranked_pairs, plackett_luce):
        scores = SCORES.clone().requires_grad_()
        loss = function(scores, RANKS, PRESENT)[0]
        (grad,) = torch.autograd.grad(loss.sum(), scores)
        assert bool(grad.isfinite().all()) and grad[1, 3] == 0 and bool((grad[2] == 0).all())
        assert loss[2] == 0
        torch.testing.assert_close(grad.sum(1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_order_of_answers_does_not_matter() -> None:
    order = [2, 0, 3, 1]
    for function in (ranked_pairs, plackett_luce):
        expected = function(SCORES, RANKS, PRESENT)[0]
        found = function(SCORES[:, order], RANKS[:, order], PRESENT[:, order])[0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("split_ties", [False, True])
def test_gradients_by_finite_differences(split_ties) -> None:
    scores = SCORES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ranked_pairs(s, RANKS, PRESENT, split_ties=split_ties).losses, (scores,))
    assert torch.autograd.gradcheck(lambda s: plackett_luce(s, RANKS, PRESENT)[0], (scores,))
