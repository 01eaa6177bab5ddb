r"""Log-probabilities of tokens, computed from hidden states without ever holding the [P, V] logits.

    tokens = token_logps(hidden, Head(weight), labels)    # hidden [P, H], weight [V, H], labels [P]
    sequence = sum_rows(tokens.logps, offsets)            # [M]

Shapes: P positions that carry a label, H hidden width, V vocabulary, c rows of a chunk, M sequences. Memory is
O(c * V), plus the gradient of the weight, plus at most 512 MB of probabilities kept for the backward; the backward
recomputes the rest. Sums are in fp32, or in float64 where the input is.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 23  # 32 MB of fp32 logits a chunk
_KEPT_BYTES = 1 << 29


class TokenLogps(NamedTuple):
    """logps: [P] of the labels. entropy: [P] of the whole distribution, in nats, where requested. hits: [P] bool,
    whether the label is the most probable token; without gradient."""

    logps: Tensor
    entropy: Tensor | None
    hits: Tensor


class Head(NamedTuple):
    """Logits are softcap * tanh(scale * (h W^T + b) / softcap); softcap 0: no cap. weight: [V, H]; bias: [V]."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float = 0.0


def token_logps(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    uniform: bool = False,
    chunk: int = 0,
) -> TokenLogps:
    """log softmax(logits / temperature)[label] of each position, and its gradient.

    hidden: [P, H]; labels: [P] int64; chunk: positions computed at once, 0: chosen. uniform: a hint that the loss
    weighs all positions alike, as a mean over tokens does. The forward then computes the gradients, without a second
    pass over the vocabulary (6 instead of 8 P H V operations); if the hint proves wrong, the backward computes them
    again.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    needs = torch.is_grad_enabled() and (hidden.requires_grad or head.weight.requires_grad)
    rows = chunk or max(16, _CHUNK_ELEMENTS // len(head.weight))
    uniform = uniform and needs and not entropy
    keeps = needs and not uniform and not entropy and not head.softcap
    kept = min(_KEPT_BYTES // (len(head.weight) * hidden.element_size()) // rows * rows, len(hidden)) if keeps else 0
    options = (head.scale / temperature, head.softcap / temperature, entropy, uniform, rows, kept)
    with torch.autocast(device, enabled=False):
        logps, spread, hits = _TokenLogps.apply(hidden, head.weight, head.bias, labels, *options)
    return TokenLogps(logps, spread if entropy else None, hits)


def sum_rows(values: Tensor, offsets: Tensor) -> Tensor:
    """values: [P]; offsets: [M + 1], where each row of values begins -> [M] sums, 0 for an empty row."""
    rows = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff()).to(values.device)
    return values.new_zeros(len(offsets) - 1).index_add(0, rows, values)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        scale: float,
        softcap: float,
        entropy: bool,
        uniform: bool,
        chunk: int,
        num_kept: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logps = hidden.new_empty(len(hidden), dtype=dtype)
        lse, spread = torch.empty_like(logps), torch.empty_like(logps) if entropy else logps.new_empty(0)
        hits = torch.empty_like(labels, dtype=torch.bool)
        narrow = weight.to(hidden.dtype)
        grads = _Gradients(hidden, weight, narrow, bias, scale, ctx.needs_input_grad) if uniform else None
        logits = _Logits(narrow, bias, scale, softcap, dtype)
        # e^(z - highest) of the first rows, with 0 at the label; elsewhere p = kept / totals.
        kept, totals = hidden.new_empty(num_kept, len(weight)), torch.empty_like(logps)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            own = kept[rows]
            z = logits(hidden[rows], own if len(own) and own.dtype == dtype else None)
            label = labels[rows, None]
            highest, of_label = z.amax(1), z.gather(1, label)[:, 0]
            slope = _slope(z, softcap) if uniform else None
            z -= highest[:, None]
            q = z.exp() if entropy else z.exp_()
            totals[rows] = total = q.sum(1)
            spare = total.log()
            logps[rows], lse[rows], hits[rows] = of_label - highest - spare, highest + spare, of_label >= highest
            if entropy:
                spread[rows] = spare - (q * z).sum(1) / total
            if grads is not None or len(own):
                q.scatter_(1, label, 0.0)
            if grads is not None:
                grads.add(rows, q, slope, hidden[rows], label, 1 / total, -total * logps[rows].expm1())
            elif len(own) and own.dtype != dtype:
                own.copy_(q)
        ctx.save_for_backward(hidden, weight, bias, labels, logps, lse, spread)
        ctx.options, ctx.dtype, ctx.ready, ctx.kept = (scale, softcap, chunk), dtype, grads, (kept, totals[:num_kept])
        ctx.mark_non_differentiable(hits)
        return logps, spread, hits

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad, grad_spread = grad_outputs[0], grad_outputs[1]
        hidden, weight, bias, labels, logps, lse, spread = ctx.saved_tensors
        none = (None,) * 7
        ready, ctx.ready = ctx.ready, None  # scaled in place, so usable once
        (kept, totals), ctx.kept = ctx.kept, (hidden[:0], lse[:0])
        if ready is not None and len(grad) and bool((grad == grad[0]).all()):  # syncs with a GPU
            return *ready.finish(grad[0]), *none
        scale, softcap, chunk = ctx.options
        narrow = weight.to(hidden.dtype)
        grads = _Gradients(hidden, weight, narrow, bias, scale, ctx.needs_input_grad)
        logits = _Logits(narrow, bias, scale, softcap, ctx.dtype)
        if len(kept):
            first = slice(len(kept))
            peak = -totals * logps[first].expm1()
            grads.add(first, kept, None, hidden[first], labels[first, None], grad[first] / totals, peak)
        for start in range(len(kept), len(hidden), chunk):
            rows = slice(start, start + chunk)
            z = logits(hidden[rows])
            slope = _slope(z, softcap)
            logp, label, factor = z.sub_(lse[rows, None]), labels[rows, None], grad[rows]
            peak = -logps[rows].expm1()  # 1 - p of the label
            if len(spread):
                # dH/d logits = -p (log p + H), added to the label's g (onehot - p)
                weights = grad[rows, None] + grad_spread[rows, None] * (logp + spread[rows, None])
                peak = grad[rows] * peak - grad_spread[rows] * logps[rows].exp() * (logps[rows] + spread[rows])
                q, factor = logp.exp_().mul_(weights), torch.ones_like(peak)
            else:
                q = logp.exp_()
            grads.add(rows, q.scatter_(1, label, 0.0), slope, hidden[rows], label, factor, peak)
        return *grads.finish(None), *none


class _Gradients:
    """Accumulates the gradients of hidden [P, H], weight [V, H] and bias [V], of those that are needed.

    narrow: the weight in the precision of `hidden`. scale: of the logits.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        narrow: Tensor,
        bias: Tensor | None,
        scale: float,
        needed: tuple[bool, ...],
    ) -> None:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self._narrow, self._dtypes, self._scale = narrow, (hidden.dtype, weight.dtype, weight.dtype), scale
        self._hidden = torch.empty_like(hidden) if needed[0] else None
        self._weight = torch.zeros_like(weight, dtype=dtype) if needed[1] else None
        self._bias = torch.zeros_like(bias, dtype=dtype) if bias is not None and needed[2] else None

    def add(
        self,
        rows: slice,
        q: Tensor,
        slope: Tensor | None,
        hidden: Tensor,
        label: Tensor,
        factor: Tensor,
        peak: Tensor,
    ) -> None:
        """The gradient with respect to the logits is factor * (peak * onehot(label) - q), before cap and scale.

        q: [c, V], 0 at the label, overwritten where there is a cap; slope: [c, V], the cap's derivative, or None;
        hidden: [c, H]; label: [c, 1]; factor, peak: [c]. To visit [c, V] least often, the label's term is added by
        index and `factor` multiplies the narrow side. 1 - p of the label is passed in as `peak`, not computed as a
        difference of two rounded numbers.
        """
        if slope is not None:
            q *= slope
            peak = peak * slope.gather(1, label)[:, 0]
        factor = factor * self._scale
        if self._bias is not None:
            self._bias.index_add_(0, label[:, 0], peak * factor).sub_(factor.to(q.dtype) @ q)
        q, times = q.to(hidden.dtype), (peak[:, None], factor[:, None])
        if self._hidden is not None:
            grad = torch.addcmul(-(q @ self._narrow), self._narrow[label[:, 0]], times[0].to(q.dtype))
            self._hidden[rows] = grad * times[1].to(q.dtype)
        if self._weight is not None:
            weighted = hidden * times[1].to(hidden.dtype)
            self._weight.index_add_(0, label[:, 0], (weighted * times[0]).to(self._weight.dtype))
            if q.dtype == self._weight.dtype:
                self._weight.addmm_(q.T, weighted, alpha=-1)
            else:
                self._weight -= _wide(q.T, weighted, self._weight.dtype)

    def finish(self, factor: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients times `factor`, each in the precision of its tensor."""
        sums = (self._hidden, self._weight, self._bias)
        for gradient in sums:
            if gradient is not None and factor is not None:
                gradient.mul_(factor)
        return tuple(None if t is None else t.to(dtype) for t, dtype in zip(sums, self._dtypes, strict=True))


class _Logits:
    """Computes [c, V] logits in `dtype`, in the memory given or in a buffer that the next call reuses. On a CPU,
    allocating new pages costs a fifth of the product."""

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: float, softcap: float, dtype: torch.dtype) -> None:
        self._weight, self._bias, self._scale, self._softcap, self._dtype = weight, bias, scale, softcap, dtype
        self._memory = weight.new_empty(0, dtype=dtype)

    def __call__(self, hidden: Tensor, memory: Tensor | None = None) -> Tensor:
        if memory is None and not hidden.is_cuda:
            memory = self._room(len(hidden))
        z = _wide(hidden, self._weight.T, self._dtype, memory)
        if self._bias is not None:
            z += self._bias
        if self._scale != 1.0:
            z *= self._scale
        return z.div_(self._softcap).tanh_().mul_(self._softcap) if self._softcap else z

    def _room(self, rows: int) -> Tensor:
        if len(self._memory) < rows:
            self._memory = self._memory.new_empty(rows, len(self._weight))
        return self._memory[:rows]


def _wide(a: Tensor, b: Tensor, dtype: torch.dtype, memory: Tensor | None = None) -> Tensor:
    """a @ b in `dtype`: half-precision factors are summed in fp32, and the result is not rounded back. memory: an
    output buffer."""
    if a.dtype != dtype and a.is_cuda:
        return torch.mm(a, b, out_dtype=dtype)
    return torch.mm(a.to(dtype), b.to(dtype), out=memory)


def _slope(z: Tensor, softcap: float) -> Tensor | None:
    """The derivative of softcap tanh(x / softcap), from the capped logits z; None without a cap."""
    return 1 - (z / softcap).square_() if softcap else None
