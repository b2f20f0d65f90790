"""Shapes and dtypes of the raw operators' results, for torch.compile and torch.export.

Registered once by ``__init__``. Values are checked by the operators themselves
when they run (src/core); here only what a trace needs. Counts may be symbolic; every
result is contiguous.
"""

from __future__ import annotations

import torch
from torch.fx.experimental.symbolic_shapes import guard_or_false
from torch.library import register_fake


def _rows(x: torch.Tensor, num_rows: int) -> torch.Tensor:
    return x.new_empty((num_rows, x.shape[1]))


@register_fake("grouped_gemm::_gmm")
def _(a, b, sizes, cumulative, trans_b, out_dtype=None, allow_tf32=False):
    num_n = b.shape[1] if trans_b else b.shape[2]
    return a.new_empty((a.shape[0], num_n), dtype=out_dtype or a.dtype)


@register_fake("grouped_gemm::_gmm_out")
def _(a, b, sizes, cumulative, trans_b, out, allow_tf32=False):
    return None


@register_fake("grouped_gemm::_gmm_wgrad")
def _(a, dy, sizes, cumulative, trans_b, out_dtype=None, allow_tf32=False):
    shape = (dy.shape[1], a.shape[1]) if trans_b else (a.shape[1], dy.shape[1])
    return a.new_empty((sizes.shape[0], *shape), dtype=out_dtype or a.dtype)


@register_fake("grouped_gemm::_gmm_wgrad_out")
def _(a, dy, sizes, cumulative, trans_b, out, accumulate, allow_tf32=False):
    return None


@register_fake("grouped_gemm::_permute")
def _(x, indices, num_out_tokens):
    if guard_or_false(num_out_tokens == 0):
        num_out_tokens = indices.numel()
    else:  # a value that the graph reads from a tensor: 0 would mean another shape
        torch._check(num_out_tokens != 0)
    return _rows(x, num_out_tokens), x.new_empty((indices.numel(),), dtype=torch.int32)


@register_fake("grouped_gemm::_moe_permute")
def _(
    x,
    indices,
    num_experts,
    probs=None,
    scales=None,
    align_size=1,
    capacity=None,
    drop_by_probs=False,
):
    topk = indices.shape[1] if indices.dim() == 2 else 1
    num_rows = max_permuted_rows(indices.numel(), num_experts, align_size, capacity)
    nothing = x.new_empty((0,), dtype=torch.float32)
    return (
        _rows(x, num_rows),
        x.new_empty((topk, indices.shape[0]), dtype=torch.int32),
        x.new_empty((num_experts,), dtype=torch.int32),
        x.new_empty((num_experts,), dtype=torch.int32),
        nothing if probs is None else probs.new_empty((num_rows,)),
        torch.empty_like(nothing) if scales is None else _rows(scales, num_rows),
    )


@register_fake("grouped_gemm::_permute_by_map")
def _(x, row_id_map, tokens_per_expert, offs, probs=None, scales=None, align_size=1):
    num_rows = max_permuted_rows(row_id_map.numel(), offs.shape[0], align_size, None)
    nothing = x.new_empty((0,), dtype=torch.float32)
    return (
        _rows(x, num_rows),
        nothing if probs is None else probs.new_empty((num_rows,)),
        torch.empty_like(nothing) if scales is None else _rows(scales, num_rows),
    )


def max_permuted_rows(num_slots, num_experts, align_size, capacity):
    """As ``gg::max_permuted_rows``: no routing fills more rows, pads included."""
    num_groups = torch.sym_min(num_experts, num_slots)
    padded = num_slots
    if align_size > 1:
        padded = (num_slots + num_groups * (align_size - 1)) // align_size * align_size
    if capacity is None:
        return padded
    of_group = (capacity + align_size - 1) // align_size * align_size
    return torch.sym_min(padded, num_groups * of_group)


@register_fake("grouped_gemm::_permute_probs_bwd")
def _(grad, row_id_map):
    return grad.new_empty((row_id_map.shape[1], row_id_map.shape[0]))


def _num_tokens(row_id_map, probs, topk):
    if topk:
        return row_id_map.numel() // topk
    if row_id_map.dim() == 2:
        return row_id_map.shape[1]
    return 0 if probs is None else probs.shape[0]


@register_fake("grouped_gemm::_unpermute")
def _(x, row_id_map, probs, topk, residual=None):
    return _rows(x, _num_tokens(row_id_map, probs, topk))


@register_fake("grouped_gemm::_unpermute_bwd")
def _(grad, x, row_id_map, probs, topk, num_rows, needs_x_grad):
    sum_dtype = torch.float64 if grad.dtype == torch.float64 else torch.float32
    num_tokens = 0 if x is None else _num_tokens(row_id_map, probs, topk)
    probs_grad = grad.new_empty((num_tokens, topk), dtype=sum_dtype)
    return _rows(grad, num_rows if needs_x_grad else 0), probs_grad


@register_fake("grouped_gemm::_routing_map_to_indices")
def _(routing_map, topk):
    return routing_map.new_empty((routing_map.shape[0], topk), dtype=torch.int32)


@register_fake("grouped_gemm::_sort_chunks")
def _(x, split_sizes, sorted_index, probs=None):
    num_rows = x.shape[0]
    permuted_probs = (
        x.new_empty((0,), dtype=torch.float32) if probs is None else probs.new_empty((num_rows,))
    )
    return _rows(x, num_rows), x.new_empty((1, num_rows), dtype=torch.int32), permuted_probs


@register_fake("grouped_gemm::_sinkhorn")
def _(cost, tol, max_iterations):
    iterations = cost.new_empty((1,), dtype=torch.int32)
    error = cost.new_empty((1,), dtype=torch.float32)
    return cost.new_empty(cost.shape), iterations, error  # not empty_like: no gaps, whatever cost's


@register_fake("grouped_gemm::_route")
def _(
    logits,
    expert_bias,
    topk,
    sigmoid,
    pre_softmax,
    normalize_topk,
    num_groups,
    group_topk,
    group_score_topk,
    scaling_factor,
    num_sequences,
    with_sums,
    with_row_map=False,
    align_size=1,
):
    num_tokens, num_experts = logits.shape
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    num_sums = num_sequences if with_sums else 0
    return (
        logits.new_empty((num_tokens, topk), dtype=wide),
        logits.new_empty((num_tokens, topk), dtype=torch.int32),
        logits.new_empty((num_sequences, num_experts), dtype=torch.int32),
        logits.new_empty((num_sums, num_experts), dtype=wide),
        logits.new_empty((num_sums,), dtype=wide),
        logits.new_empty((topk if with_row_map else 0, num_tokens), dtype=torch.int32),
        logits.new_empty((num_experts if with_row_map else 0,), dtype=torch.int32),
    )


@register_fake("grouped_gemm::_route_bwd")
def _(logits, indices, *gradients_and_options):
    return logits.new_empty(logits.shape)
