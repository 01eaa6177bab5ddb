"""Contrastive losses over a global batch, in slices.

Shapes: B examples of a global batch, D embedding width, c rows of a chunk, K id columns.
The two pairwise losses never hold a [B, B] matrix: forward and backward visit [c, B] slices, so memory is O(c * B).
"""

from typing import Any

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 21  # 8 MB of fp32 a slice: large enough for the matrix product, small beside any tower


def positives(ids: Tensor, rows: slice) -> Tensor:
    """[c, C] bool: which texts match which images. Two examples match where any column of `ids` [C, K] is equal."""
    match = ids[rows, None, 0] == ids[None, :, 0]
    for column in range(1, ids.shape[1]):
        match = match | (ids[rows, None, column] == ids[None, :, column])
    return match


def info_nce(
    x: Tensor, y: Tensor, scale: Tensor, ids: Tensor, chunk: int = 0, *, both: bool = True
) -> tuple[Tensor, Tensor]:
    """InfoNCE, summed over examples (van den Oord 2018; Radford 2021, figure 3).

        z_ij = scale_i * <x_i, y_j>,  P(i) = {j : j matches i}
        both: sum_i 1/2 [lse_j z_ij - mean_{P(i)} z_ij] + sum_{j <= B} 1/2 [lse_i z_ij - mean_{P(j)} z_ij]
        else: sum_i [lse_j z_ij - mean_{P(i)} z_ij]

    x: [B, D], y: [C, D] unit vectors; C >= B: further ones (hard negatives) stand behind the first B. scale: [B], the
    learned scale expanded; ids: [C, K] int64, see `positives`; chunk: rows of a slice, 0: `default_chunk`. Returns
    (sum, hits); hits: how many x_i rank one of their own y_j first, without gradient.
    """
    return _InfoNCE.apply(x, y, scale, ids, chunk or default_chunk(len(y)), both)


def sigmoid_pairs(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, ids: Tensor, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """The sigmoid loss of SigLIP (Zhai 2023, equation 1), summed over all pairs; divide by B.

        -sum_ij log sigmoid(s_ij * (scale_i * <x_i, y_j> + bias_i)),   s_ij = +1 where j matches i, else -1

    Arguments and result as `info_nce`; bias: [B], the learned bias expanded.
    """
    return _SigmoidPairs.apply(x, y, scale, bias, ids, chunk or default_chunk(len(y)))


def default_chunk(num_columns: int) -> int:
    """Rows of a slice such that it holds about two million scores."""
    return max(16, _CHUNK_ELEMENTS // max(1, num_columns))


def _slices(num_rows: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, num_rows)) for start in range(0, num_rows, chunk)]


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, ids: Tensor, chunk: int, both: bool
    ) -> tuple[Tensor, Tensor]:
        dtype = _accumulation_dtype(x)
        x_, y_, scale_ = x.detach().to(dtype), y.detach().to(dtype), scale.detach().to(dtype)
        row_lse = x_.new_empty(len(x))
        column_lse = x_.new_full((len(x),), -torch.inf)
        num_positive, num_mutual = x_.new_empty(len(x)), x_.new_empty(len(x))
        summed, hits = x_.new_zeros(()), x_.new_zeros(())
        matched = x_.new_zeros(len(x))  # sum over rows of z_ij where i matches j
        for rows in _slices(len(x), chunk):
            z = (x_[rows] @ y_.T).mul_(scale_[rows, None])
            match = positives(ids, rows)
            row_lse[rows] = z.logsumexp(1)
            num_positive[rows] = match.sum(1).to(dtype)
            if both:
                column_lse = torch.logaddexp(column_lse, z[:, : len(x)].logsumexp(0))
                num_mutual[rows] = match[:, : len(x)].sum(1).to(dtype)
            hits += match.gather(1, z.argmax(1, keepdim=True)).sum()
            z.masked_fill_(~match, 0.0)
            summed -= (z.sum(1) / num_positive[rows]).sum()
            if both:
                matched += z[:, : len(x)].sum(0)
        summed += row_lse.sum()
        if both:
            # `positives` is symmetric, so text j has as many matching images as image j has matching texts.
            summed += column_lse.sum() - (matched / num_mutual).sum()
        ctx.save_for_backward(x, y, scale, ids, row_lse, column_lse, num_positive, num_mutual)
        ctx.chunk, ctx.both = chunk, both
        ctx.mark_non_differentiable(hits)
        return summed / 2 if both else summed, hits

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad = grad_outputs[0]
        x, y, scale, ids, row_lse, column_lse, num_positive, num_mutual = ctx.saved_tensors
        dtype = row_lse.dtype
        x_, y_, scale_ = x.to(dtype), y.to(dtype), scale.to(dtype)
        grad_x, grad_y, grad_scale = torch.empty_like(x_), torch.zeros_like(y_), torch.empty_like(scale_)
        for rows in _slices(len(x), ctx.chunk):
            cosine = x_[rows] @ y_.T
            z = cosine * scale_[rows, None]
            match = positives(ids, rows)
            grad_z = (z - row_lse[rows, None]).exp_()
            share = (1 / num_positive[rows, None]).expand(z.shape).contiguous()
            if ctx.both:
                grad_z[:, : len(x)] += z[:, : len(x)].sub_(column_lse).exp_()
                share[:, : len(x)] += 1 / num_mutual
            grad_z -= share.mul_(match)
            grad_z *= grad / 2 if ctx.both else grad
            grad_scale[rows] = cosine.mul_(grad_z).sum(1)
            grad_z *= scale_[rows, None]
            grad_x[rows] = grad_z @ y_
            grad_y.addmm_(grad_z.T, x_[rows])
        return grad_x.to(x.dtype), grad_y.to(y.dtype), grad_scale.to(scale.dtype), None, None, None


class _SigmoidPairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, ids: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        dtype = _accumulation_dtype(x)
        x_, y_, scale_, bias_ = (tensor.detach().to(dtype) for tensor in (x, y, scale, bias))
        summed, hits = x_.new_zeros(()), x_.new_zeros(())
        for rows in _slices(len(x), chunk):
            z = (x_[rows] @ y_.T).mul_(scale_[rows, None]).add_(bias_[rows, None])
            match = positives(ids, rows)
            hits += match.gather(1, z.argmax(1, keepdim=True)).sum()
            z = torch.where(match, z, -z)
            summed -= torch.nn.functional.logsigmoid(z).sum()
        ctx.save_for_backward(x, y, scale, bias, ids)
        ctx.chunk, ctx.dtype = chunk, dtype
        ctx.mark_non_differentiable(hits)
        return summed, hits

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        grad = grad_outputs[0]
        x, y, scale, bias, ids = ctx.saved_tensors
        x_, y_, scale_, bias_ = (tensor.to(ctx.dtype) for tensor in (x, y, scale, bias))
        grad_x, grad_y = torch.empty_like(x_), torch.zeros_like(y_)
        grad_scale, grad_bias = torch.empty_like(scale_), torch.empty_like(bias_)
        for rows in _slices(len(x), ctx.chunk):
            cosine = x_[rows] @ y_.T
            grad_z = (cosine * scale_[rows, None]).add_(bias_[rows, None]).sigmoid_()
            # d(-log sigmoid(s z))/dz = sigmoid(z) - 1 where s = +1, sigmoid(z) where s = -1
            grad_z -= positives(ids, rows).to(ctx.dtype)
            grad_z *= grad
            grad_bias[rows] = grad_z.sum(1)
            grad_scale[rows] = cosine.mul_(grad_z).sum(1)
            grad_z *= scale_[rows, None]
            grad_x[rows] = grad_z @ y_
            grad_y.addmm_(grad_z.T, x_[rows])
        grads = (grad_x.to(x.dtype), grad_y.to(y.dtype), grad_scale.to(scale.dtype), grad_bias.to(bias.dtype))
        return (*grads, None, None)
