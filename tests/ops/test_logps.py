"""Token log-probabilities against log_softmax over whole logits, in float64: values, gradients, hints, edges."""

import pytest
import torch

from mmalign.ops import Head, sum_rows, token_logps

P, H, V = 11, 6, 17


def _inputs(bias: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    return leaf(P, H), leaf(V, H), leaf(V) if bias else None, torch.randint(V, (P,), generator=generator)


def _naive(hidden, weight, bias, labels, scale=1.0, softcap=0.0, temperature=1.0):
    z = scale * (hidden @ weight.T + (0 if bias is None else bias))
    z = softcap * torch.tanh(z / softcap) if softcap else z
    logp = (z / temperature).log_softmax(1)
    return logp[torch.arange(P), labels], -(logp.exp() * logp).sum(1), logp.argmax(1) == labels


OPTIONS = [{}, {"scale": 0.3}, {"softcap": 2.0}, {"scale": 1.7, "softcap": 1.5, "temperature": 0.7}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("alike", [False, True])
def test_logps_equal_naive(options, chunk, bias, uniform, alike) -> None:
    hidden, weight, bias_, labels = _inputs(bias)
    leaves = [leaf for leaf in (hidden, weight, bias_) if leaf is not None]
    upstream = torch.full((P,), -0.3, dtype=torch.float64) if alike else torch.linspace(-1, 2, P, dtype=torch.float64)
    expected, _, hits = _naive(hidden, weight, bias_, labels, **options)
    wanted = torch.autograd.grad(expected @ upstream, leaves)
    temperature = options.get("temperature", 1.0)
    head = Head(weight, bias_, options.get("scale", 1.0), options.get("softcap", 0.0))
    found = token_logps(hidden, head, labels, temperature=temperature, uniform=uniform, chunk=chunk)
    torch.testing.assert_close(found.logps, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.hits, hits) and found.entropy is None
    got = torch.autograd.grad(found.logps @ upstream, leaves, retain_graph=True)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    again = torch.autograd.grad(found.logps @ (2 * upstream), leaves)
    torch.testing.assert_close(again, tuple(2 * grad for grad in wanted), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_entropy_equals_naive(options) -> None:
    hidden, weight, bias, labels = _inputs(bias=True)
    assert bias is not None
    upstream = torch.linspace(-1, 2, P, dtype=torch.float64)
    logps, entropy, _ = _naive(hidden, weight, bias, labels, **options)
    wanted = torch.autograd.grad(logps @ upstream + entropy @ upstream.flip(0), (hidden, weight, bias))
    head = Head(weight, bias, options.get("scale", 1.0), options.get("softcap", 0.0))
    temperature = options.get("temperature", 1.0)
    found = token_logps(hidden, head, labels, temperature=temperature, entropy=True, uniform=True, chunk=3)
    assert found.entropy is not None
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-12, atol=1e-12)
    total = found.logps @ upstream + found.entropy @ upstream.flip(0)
    torch.testing.assert_close(torch.autograd.grad(total, (hidden, weight, bias)), wanted, rtol=1e-10, atol=1e-12)


def test_a_frozen_head_gets_no_gradient_and_hidden_does() -> None:
    hidden, weight, _, labels = _inputs()
    frozen = weight.detach()
    expected, _, _ = _naive(hidden, frozen, None, labels)
    wanted = torch.autograd.grad(expected.sum(), hidden)
    for uniform in (False, True):
        found = token_logps(hidden, Head(frozen), labels, uniform=uniform)
        torch.testing.assert_close(torch.autograd.grad(found.logps.sum(), hidden), wanted, rtol=1e-10, atol=1e-12)


def test_no_positions_give_no_logps_and_zero_gradients() -> None:
    hidden, weight, _, labels = _inputs()
    for uniform in (False, True):
        found = token_logps(hidden[:0], Head(weight), labels[:0], uniform=uniform)
        assert found.logps.shape == (0,)
        grads = torch.autograd.grad(found.logps.sum(), (hidden, weight))
        assert all(bool((grad == 0).all()) for grad in grads)


def test_half_precision_is_summed_in_fp32() -> None:
    hidden, weight, _, labels = _inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logps(hidden.detach().float(), Head(weight.detach().float()), labels)
    assert found.logps.dtype == torch.float32
    rounded = [tensor.detach().bfloat16().double() for tensor in (hidden, weight)]
    expected, _, _ = _naive(*rounded, None, labels)
    torch.testing.assert_close(found.logps.double(), expected, rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, _, labels = _inputs()
    found = token_logps(hidden * 1e4, Head(weight), labels, entropy=True)
    assert found.entropy is not None and bool(found.logps.isfinite().all()) and bool(found.entropy.isfinite().all())


def test_sum_rows() -> None:
    values = torch.arange(5.0, requires_grad=True)
    total = sum_rows(values, torch.tensor([0, 2, 2, 5]))
    assert total.tolist() == [1.0, 0.0, 9.0]
    assert torch.autograd.grad(total @ torch.tensor([1.0, 2.0, 3.0]), values)[0].tolist() == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("kept", [0, 2, 6, 100])
def test_what_is_kept_for_the_backward_changes_nothing_and_serves_once(kept, monkeypatch) -> None:
    monkeypatch.setattr("mmalign.ops.logps._KEPT_BYTES", kept * V * 8)  # rows of float64
    hidden, weight, bias, labels = _inputs(bias=True)
    upstream = torch.linspace(-1, 2, P, dtype=torch.float64)
    wanted = torch.autograd.grad(_naive(hidden, weight, bias, labels)[0] @ upstream, [hidden, weight, bias])
    loss = token_logps(hidden, Head(weight, bias), labels, chunk=2).logps @ upstream
    for again in (True, True, False):
        found = torch.autograd.grad(loss, [hidden, weight, bias], retain_graph=again)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 1 << 29])
@pytest.mark.parametrize("uniform", [False, True])
def test_gradients_of_confident_tokens_keep_their_digits_in_half_precision(kept, uniform, monkeypatch) -> None:
    """1 - p of a token that is nearly certain is small: as a difference of rounded numbers it would be noise."""
    monkeypatch.setattr("mmalign.ops.logps._KEPT_BYTES", kept)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1000, 64, generator=generator).bfloat16()
    labels = torch.arange(200)
    hidden = (weight[labels].float() * torch.linspace(0.1, 0.25, 200)[:, None]).bfloat16()
    exact = hidden.double().requires_grad_()
    logps = (exact @ weight.double().T).log_softmax(1)[torch.arange(200), labels]
    assert float(logps.detach().max().exp()) > 0.99
    (wanted,) = torch.autograd.grad(logps.sum(), exact)
    leaf = hidden.clone().requires_grad_()
    (found,) = torch.autograd.grad(token_logps(leaf, Head(weight), labels, uniform=uniform).logps.sum(), leaf)
    error = (found.double() - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(error.max()) < 0.02
