"""The chunked losses against slow, naive twins in float64: values, every gradient, odd chunk sizes, duplicates."""

import pytest
import torch
import torch.nn.functional as F

from mmalign.ops import info_nce, positives, sigmoid_pairs


def _inputs(num: int, duplicates: bool) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(num)
    x, y = (F.normalize(torch.randn(num, 5, dtype=torch.float64, generator=generator), dim=1) for _ in range(2))
    log_scale = torch.tensor(1.7, dtype=torch.float64)
    bias = torch.tensor(-2.0, dtype=torch.float64)
    captions = torch.arange(num)
    images = torch.arange(num) + 100
    if duplicates:
        captions[-1] = captions[0]
        images[1] = images[2]
    leaves = tuple(tensor.requires_grad_() for tensor in (x, y, log_scale, bias))
    return (*leaves, torch.stack([captions, images], 1))


def _naive_match(ids: torch.Tensor) -> torch.Tensor:
    rows = [[any(a == b for a, b in zip(one, other, strict=True)) for other in ids.tolist()] for one in ids.tolist()]
    return torch.tensor(rows)


def _naive_info_nce(x, y, log_scale, ids):
    z, match, total = log_scale.exp() * x @ y.T, _naive_match(ids), 0.0
    for i in range(len(x)):
        total = total - (z[i].log_softmax(0)[match[i]].mean() + z[:, i].log_softmax(0)[match[:, i]].mean()) / 2
    return total


def _naive_sigmoid(x, y, log_scale, bias, ids):
    match, total = _naive_match(ids), 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            z = log_scale.exp() * (x[i] @ y[j]) + bias
            total = total - torch.log(torch.sigmoid(z if match[i, j] else -z))
    return total


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_info_nce_equals_naive(chunk: int, duplicates: bool) -> None:
    x, y, log_scale, _, ids = _inputs(7, duplicates)
    expected = _naive_info_nce(x, y, log_scale, ids)
    wanted = torch.autograd.grad(expected * 1.3, (x, y, log_scale))
    total, hits = info_nce(x, y, log_scale.exp().expand(7), ids, chunk)
    got = torch.autograd.grad(total * 1.3, (x, y, log_scale))
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)
    best = (x @ y.T).argmax(1)
    assert hits == sum(bool(_naive_match(ids)[i, best[i]]) for i in range(7))


def test_info_nce_without_duplicates_is_the_usual_cross_entropy() -> None:
    x, y, log_scale, _, ids = _inputs(9, False)
    z = log_scale.exp() * x @ y.T
    target = torch.arange(9)
    expected = (F.cross_entropy(z, target, reduction="sum") + F.cross_entropy(z.T, target, reduction="sum")) / 2
    torch.testing.assert_close(info_nce(x, y, log_scale.exp().expand(9), ids)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_sigmoid_equals_naive(chunk: int, duplicates: bool) -> None:
    x, y, log_scale, bias, ids = _inputs(6, duplicates)
    expected = _naive_sigmoid(x, y, log_scale, bias, ids)
    wanted = torch.autograd.grad(expected, (x, y, log_scale, bias))
    total, _ = sigmoid_pairs(x, y, log_scale.exp().expand(6), bias.expand(6), ids, chunk)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(total, (x, y, log_scale, bias)), wanted, rtol=1e-11, atol=1e-12)


def test_losses_equal_open_clip() -> None:
    from open_clip.loss import ClipLoss, SigLipLoss

    x, y, log_scale, bias, ids = (tensor.detach() for tensor in _inputs(8, False))
    clip = ClipLoss()(x, y, log_scale.exp())
    torch.testing.assert_close(info_nce(x, y, log_scale.exp().expand(8), ids)[0] / 8, clip, rtol=1e-12, atol=1e-12)
    siglip = SigLipLoss()(x, y, log_scale.exp(), bias)
    ours = sigmoid_pairs(x, y, log_scale.exp().expand(8), bias.expand(8), ids)[0] / 8
    torch.testing.assert_close(ours, siglip, rtol=1e-12, atol=1e-12)


def test_large_scale_in_fp32_stays_finite() -> None:
    """At scale 100 a fixed shift would underflow; the running maximum does not."""
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(64, 16, generator=generator), dim=1).requires_grad_()
    y = F.normalize(torch.randn(64, 16, generator=generator), dim=1)
    total, _ = info_nce(x, y, torch.full((64,), 100.0), torch.arange(64)[:, None], 8)
    total.backward()
    target = torch.arange(64)
    z = 100 * x.detach().double() @ y.double().T
    expected = (F.cross_entropy(z, target, reduction="sum") + F.cross_entropy(z.T, target, reduction="sum")) / 2
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-4)
    assert torch.isfinite(x.grad).all()


def test_positives_match_by_any_column() -> None:
    ids = torch.tensor([[1, 10], [2, 10], [1, 30], [4, 40]])
    expected = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    assert torch.equal(positives(ids, slice(0, 4)), expected)


def _with_negatives(duplicates: bool) -> tuple[torch.Tensor, ...]:
    """Seven pairs and three further columns, one of which is the text of the first pair."""
    x, y, log_scale, bias, ids = _inputs(7, duplicates)
    generator = torch.Generator().manual_seed(1)
    more = F.normalize(torch.randn(3, 5, dtype=torch.float64, generator=generator), dim=1)
    columns = torch.cat([y.detach(), more]).requires_grad_()
    extra = torch.tensor([[int(ids[0, 0]), -1], [501, -1], [502, -1]])
    return x, columns, log_scale, bias, torch.cat([ids, extra])


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("duplicates", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_info_nce_with_hard_negatives_equals_naive(chunk: int, duplicates: bool, both: bool) -> None:
    x, y, log_scale, _, ids = _with_negatives(duplicates)
    z, total = log_scale.exp() * x @ y.T, 0.0
    for i in range(7):
        match = torch.tensor([bool((ids[i] == ids[j]).any()) for j in range(10)])
        row = z[i].log_softmax(0)[match].mean()
        column = z[:, i].log_softmax(0)[match[:7]].mean()
        total = total - ((row + column) / 2 if both else row)
    wanted = torch.autograd.grad(total * 1.3, (x, y, log_scale))
    summed, _ = info_nce(x, y, log_scale.exp().expand(7), ids, chunk, both=both)
    got = torch.autograd.grad(summed * 1.3, (x, y, log_scale))
    torch.testing.assert_close(summed, total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_sigmoid_with_hard_negatives_equals_naive(chunk: int) -> None:
    x, y, log_scale, bias, ids = _with_negatives(True)
    total = 0.0
    for i in range(7):
        for j in range(10):
            z = log_scale.exp() * (x[i] @ y[j]) + bias
            total = total - torch.log(torch.sigmoid(z if bool((ids[i] == ids[j]).any()) else -z))
    wanted = torch.autograd.grad(total, (x, y, log_scale, bias))
    summed, _ = sigmoid_pairs(x, y, log_scale.exp().expand(7), bias.expand(7), ids, chunk)
    torch.testing.assert_close(summed, total, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(summed, (x, y, log_scale, bias))
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)
