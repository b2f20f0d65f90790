"""The autograd Functions: each puts raw operators together with their gradients.

Called by ``ops`` (drop-in surface) and by ``_functional``, ``_permutation`` and ``_routing``
(native surface), which check arguments in Python where the message needs Python's words; everything
else is checked by the operators (src/core). Gradients of gradients are refused:
no backward here is differentiable.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from ._precision import allows_tf32

raw = torch.ops.grouped_gemm


def kept_sizes(sizes: torch.Tensor) -> torch.Tensor:
    """What backward reads: of sizes on the CPU a copy (1 us), since their owner may write to them
    behind autograd's back, as an array of numpy does that shares their memory."""
    return sizes.clone() if sizes.is_cpu else sizes


class GroupedGemm(torch.autograd.Function):
    """gmm: ``apply(a, b, batch_sizes, trans_b)`` -> [T, N]; see :func:`grouped_gemm.gmm`."""

    @staticmethod
    def forward(ctx, a, b, batch_sizes, trans_b=False, cumulative=False, out_dtype=None):
        sizes = kept_sizes(batch_sizes)
        ctx.save_for_backward(a, b, sizes)
        ctx.trans_b = trans_b
        ctx.cumulative = cumulative
        return raw._gmm(a, b, sizes, cumulative, trans_b, out_dtype, allows_tf32(a))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        a, b, sizes = ctx.saved_tensors
        grad = grad.to(a.dtype)
        tf32 = allows_tf32(a)
        a_grad = b_grad = None
        if ctx.needs_input_grad[0]:
            a_grad = raw._gmm(grad, b, sizes, ctx.cumulative, not ctx.trans_b, None, tf32)
        if ctx.needs_input_grad[1]:
            b_grad = raw._gmm_wgrad(a, grad, sizes, ctx.cumulative, ctx.trans_b, None, tf32)
        return a_grad, b_grad, None, None, None, None


class GroupedGemmWgrad(torch.autograd.Function):
    """gmm_wgrad: ``apply(a, dy, sizes, cumulative, out_dtype)`` -> [E, K, N]."""

    @staticmethod
    def forward(ctx, a, dy, sizes, cumulative, out_dtype):
        sizes = kept_sizes(sizes)
        ctx.save_for_backward(a, dy, sizes)
        ctx.cumulative = cumulative
        return raw._gmm_wgrad(a, dy, sizes, cumulative, False, out_dtype, allows_tf32(a))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        a, dy, sizes = ctx.saved_tensors
        grad = grad.to(a.dtype)
        tf32 = allows_tf32(a)
        a_grad = dy_grad = None
        if ctx.needs_input_grad[0]:
            a_grad = raw._gmm(dy, grad, sizes, ctx.cumulative, True, None, tf32)
        if ctx.needs_input_grad[1]:
            dy_grad = raw._gmm(a, grad, sizes, ctx.cumulative, False, None, tf32)
        return a_grad, dy_grad, None, None, None


def _topk_of(indices: torch.Tensor) -> int:
    return indices.shape[1] if indices.dim() == 2 else 1


class PermuteMoE_topK(torch.autograd.Function):  # noqa: N801 - the original's name
    """permute: ``apply(input_act, indices, num_out_tokens, max_token_num)``."""

    @staticmethod
    def forward(ctx, input_act, indices, num_out_tokens=None, max_token_num=0):
        num_out_tokens = 0 if num_out_tokens is None else num_out_tokens
        permuted, row_id_map = raw._permute(input_act, indices, num_out_tokens)
        ctx.save_for_backward(row_id_map)
        ctx.topk, ctx.num_tokens = _topk_of(indices), indices.shape[0]
        ctx.mark_non_differentiable(row_id_map)
        return permuted, row_id_map

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        (row_id_map,) = ctx.saved_tensors
        if ctx.topk == 0:
            row_id_map = row_id_map.view(0, ctx.num_tokens)  # else a map of nothing has no T
        input_grad = None
        if ctx.needs_input_grad[0]:
            input_grad = raw._unpermute(grad, row_id_map, None, ctx.topk)
        return input_grad, None, None, None


class MoePermute(torch.autograd.Function):
    """moe_permute: ``apply`` takes and returns what the raw operator does."""

    @staticmethod
    def forward(ctx, x, indices, num_experts, probs, *how):
        permuted, row_id_map, counts, offs, permuted_probs, permuted_scales = raw._moe_permute(
            x, indices, num_experts, probs, *how
        )
        ctx.save_for_backward(row_id_map)
        ctx.topk = _topk_of(indices)
        ctx.probs_shape = None if probs is None else probs.shape
        if probs is None:
            ctx.mark_non_differentiable(row_id_map, counts, offs, permuted_scales, permuted_probs)
        else:
            ctx.mark_non_differentiable(row_id_map, counts, offs, permuted_scales)
        return permuted, row_id_map, counts, offs, permuted_probs, permuted_scales

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _map, _counts, _offs, permuted_probs_grad, _scales):
        x_grad, probs_grad = _permute_backward(ctx, grad, permuted_probs_grad, 3)
        return x_grad, None, None, probs_grad, None, None, None, None


class PermuteByMap(torch.autograd.Function):
    """moe_permute by a ready map: ``apply`` takes and returns what the raw operator does."""

    @staticmethod
    def forward(ctx, x, row_id_map, counts, offs, probs, *how):
        permuted, permuted_probs, permuted_scales = raw._permute_by_map(
            x, row_id_map, counts, offs, probs, *how
        )
        ctx.save_for_backward(row_id_map)
        ctx.topk = row_id_map.shape[0]
        ctx.probs_shape = None if probs is None else probs.shape
        if probs is None:
            ctx.mark_non_differentiable(permuted_scales, permuted_probs)
        else:
            ctx.mark_non_differentiable(permuted_scales)
        return permuted, permuted_probs, permuted_scales

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, permuted_probs_grad, _scales):
        x_grad, probs_grad = _permute_backward(ctx, grad, permuted_probs_grad, 4)
        return x_grad, None, None, None, probs_grad, None, None


def _permute_backward(ctx, grad, permuted_probs_grad, probs_index):
    """Gradients of x and of the probs, the ``probs_index``-th argument, by the saved map."""
    (row_id_map,) = ctx.saved_tensors
    x_grad = probs_grad = None
    if ctx.needs_input_grad[0]:
        x_grad = raw._unpermute(grad, row_id_map, None, ctx.topk)
    if ctx.needs_input_grad[probs_index]:
        probs_grad = raw._permute_probs_bwd(permuted_probs_grad, row_id_map)
        probs_grad = probs_grad.view(ctx.probs_shape)
    return x_grad, probs_grad


class SortChunks(torch.autograd.Function):
    """sort_chunks: ``apply(x, split_sizes, sorted_index, probs)`` -> rows, probs."""

    @staticmethod
    def forward(ctx, x, split_sizes, sorted_index, probs):
        output, row_id_map, permuted_probs = raw._sort_chunks(x, split_sizes, sorted_index, probs)
        ctx.save_for_backward(row_id_map)
        if probs is None:
            ctx.mark_non_differentiable(permuted_probs)
        return output, permuted_probs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, probs_grad):
        (row_id_map,) = ctx.saved_tensors
        x_grad = permuted_probs_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = raw._unpermute(grad, row_id_map, None, 1)
        if ctx.needs_input_grad[3]:
            permuted_probs_grad = raw._permute_probs_bwd(probs_grad, row_id_map).view(-1)
        return x_grad, None, None, permuted_probs_grad


def _unpermute_forward(ctx, x, row_id_map, probs, topk, residual=None):
    needs_probs_grad = probs is not None and ctx.needs_input_grad[2]
    # The rows are kept for the probs' gradient alone: half the memory without.
    ctx.save_for_backward(x if needs_probs_grad else None, row_id_map, probs)
    ctx.topk = topk
    ctx.num_rows = x.shape[0]
    return raw._unpermute(x, row_id_map, probs, topk, residual)


def _unpermute_backward(ctx, grad):
    x, row_id_map, probs = ctx.saved_tensors
    x_grad, probs_grad = raw._unpermute_bwd(
        grad, x, row_id_map, probs, ctx.topk, ctx.num_rows, ctx.needs_input_grad[0]
    )
    if x is not None:
        probs_grad = probs_grad.to(probs.dtype)
    return x_grad if ctx.needs_input_grad[0] else None, None if x is None else probs_grad


class Unpermute(torch.autograd.Function):
    """unpermute with topK told: ``apply(x, row_id_map, probs, topk, residual)`` -> [T, h]."""

    @staticmethod
    def forward(ctx, x, row_id_map, probs, topk, residual=None):
        return _unpermute_forward(ctx, x, row_id_map, probs, topk, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x_grad = probs_grad = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
            x_grad, probs_grad = _unpermute_backward(ctx, grad)
        return x_grad, None, probs_grad, None, grad if ctx.needs_input_grad[4] else None


class UnpermuteMoE_topK(torch.autograd.Function):  # noqa: N801 - the original's name
    """unpermute: ``apply(input_act, row_id_map, probs)``; topK is the width of probs, else 1."""

    @staticmethod
    def forward(ctx, input_act, row_id_map, probs=None):
        ctx.probs_shape = None if probs is None else probs.shape
        return _unpermute_forward(ctx, input_act, row_id_map, *with_topk(row_id_map, probs))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x_grad, probs_grad = _unpermute_backward(ctx, grad)
        if probs_grad is not None:
            probs_grad = probs_grad.view(ctx.probs_shape)
        return x_grad, None, probs_grad


def with_topk(row_id_map, probs):
    """(probs [T, topK] or None, topK): an empty probs for a map with entries means none."""
    if probs is None or (probs.numel() == 0 and row_id_map.numel() > 0):
        return None, 1
    if probs.dim() == 1:
        return probs.unsqueeze(1), 1
    return probs, probs.shape[-1]


class MoeRoute(torch.autograd.Function):
    """moe_route: ``apply(logits, expert_bias, *options)``, the raw operator's arguments."""

    @staticmethod
    def forward(ctx, logits, expert_bias, *options):
        probs, indices, counts, *sums, row_id_map, offs = raw._route(logits, expert_bias, *options)
        ctx.save_for_backward(logits, indices, probs)
        topk, sigmoid, pre_softmax, normalize_topk, *_ = options
        scaling_factor, num_sequences, ctx.with_sums, *_ = options[7:]
        ctx.options = topk, sigmoid, pre_softmax, normalize_topk, scaling_factor, num_sequences
        ctx.mark_non_differentiable(indices, counts, row_id_map, offs)
        ctx.set_materialize_grads(False)  # a loss that is not used costs nothing
        return probs, indices, counts, *sums, row_id_map, offs

    @staticmethod
    @once_differentiable
    def backward(ctx, probs_grad, _indices, _counts, score_sums_grad, z_sums_grad, _map, _offs):
        logits, indices, probs = ctx.saved_tensors
        if not ctx.with_sums:
            score_sums_grad = z_sums_grad = None  # of nothing
        logits_grad = raw._route_bwd(
            logits, indices, probs, probs_grad, score_sums_grad, z_sums_grad, *ctx.options
        )
        return logits_grad, *(None,) * 13
