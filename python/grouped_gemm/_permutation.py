"""The native permutation of a Mixture-of-Experts layer, with all that may travel along.

Letters: T tokens (rows), E experts (groups), h hidden size, N rows of the result. Errors as in
``_functional``: they name the operator, the argument, what it got and what it needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ._autograd import MoePermute, PermuteByMap, SortChunks, Unpermute
from ._errors import speaks_for_itself
from ._functional import _needs_grad, raw
from ._local import local


class MoePermuted(NamedTuple):
    """What :func:`moe_permute` returns, all on x's device; N rows of experts, pads and zeros."""

    permuted: torch.Tensor  # [N, h] rows in expert order; pads and the end are zeros
    row_id_map: torch.Tensor  # [topK, T] int32: row of token t's k-th copy, or -1
    tokens_per_expert: torch.Tensor  # [E] int32 rows of each expert, without pads
    offs: torch.Tensor  # [E] int32 cumulative ends with pads, as gmm's offs= takes them
    permuted_probs: torch.Tensor | None = None  # [N] the prob of each row, 0 for pads
    permuted_scales: torch.Tensor | None = None  # [N, s] the scales of each row, 0 for pads


class RowMap(NamedTuple):
    """A row map ready for :func:`moe_permute`; :func:`moe_route` makes it (``return_row_map``)."""

    row_id_map: torch.Tensor  # [topK, T] int32: row of token t's k-th copy, or -1
    tokens_per_expert: torch.Tensor  # [E] int32 rows of each expert, without pads
    offs: torch.Tensor  # [E] int32 cumulative ends with pads
    align_size: int = 1  # each expert's rows are padded to a multiple of this


class RoutedSlots(NamedTuple):
    """What :func:`routing_map_to_indices` returns."""

    indices: torch.Tensor  # [T, topK] int32 expert ids, then -1
    probs: torch.Tensor | None  # [T, topK] their weights; whatever where there is no expert


@speaks_for_itself()
def routing_map_to_indices(
    routing_map: torch.Tensor, topk: int | None = None, probs: torch.Tensor | None = None
) -> RoutedSlots:
    """Expert ids of a routing map: what moe_permute and moe_unpermute know as slots.

    Args:
        routing_map: bool [T, E], which experts take which token.
        topk: the most experts of any token; of more the first are taken. Without it E.
        probs: [T, E] weights, as Megatron's router gives them.

    Returns:
        :class:`RoutedSlots`: a token's experts in ascending order, and their weights,
        differentiable in ``probs``. Nothing waits for the device.
    """
    routing_map, probs = local(routing_map), local(probs)
    topk = routing_map.shape[-1] if topk is None else topk
    indices = raw._routing_map_to_indices(routing_map, topk)
    if probs is None:
        return RoutedSlots(indices, None)
    if probs.shape != routing_map.shape:
        raise ValueError(
            f"routing_map_to_indices: probs got shape {list(probs.shape)}; needs the routing "
            f"map's, {list(routing_map.shape)}"
        )
    if topk > 0 and probs.shape[1] == 0:
        return RoutedSlots(indices, probs.new_zeros(indices.shape))
    return RoutedSlots(indices, probs.gather(1, indices.clamp(min=0).long()))


def _drops_by_probs(drop_policy: str, probs: torch.Tensor | None) -> bool:
    if drop_policy not in ("position", "probs"):
        raise ValueError(
            f"moe_permute: drop_policy got {drop_policy!r}; needs 'position' or 'probs'"
        )
    if drop_policy == "probs" and probs is None:
        raise ValueError("moe_permute: drop_policy got 'probs' without probs; needs probs=")
    return drop_policy == "probs"


def _permute_by_map(x, row_map, probs, scales, options) -> MoePermuted:
    """moe_permute of a row map; ``options`` as given, of which a map decides all."""
    row_id_map, counts, ends, align_size = row_map
    own = {
        "num_experts": (None, ends.shape[-1]),
        "topk": (None, row_id_map.shape[0]),
        "align_size": (1, align_size),
        "capacity": (None, None),
        "drop_policy": ("position", "position"),
    }
    for (name, allowed), got in zip(own.items(), options, strict=True):
        if got not in allowed:
            raise ValueError(
                f"moe_permute: {name} got {got!r} beside a row map; needs {allowed[1]!r}, or leave "
                "it away; with other options give the expert ids"
            )
    arguments = (x, row_id_map, counts, ends, probs, scales, align_size)
    operator = PermuteByMap.apply if _needs_grad(x, probs) else raw._permute_by_map
    permuted, permuted_probs, permuted_scales = operator(*arguments)
    return MoePermuted(
        permuted,
        row_id_map,
        counts,
        ends,
        None if probs is None else permuted_probs,
        None if scales is None else permuted_scales,
    )


@speaks_for_itself(input="x", routing_map="indices")
def moe_permute(
    x: torch.Tensor,
    indices: torch.Tensor | RowMap,
    *,
    num_experts: int | None = None,
    topk: int | None = None,
    probs: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    align_size: int = 1,
    capacity: int | None = None,
    drop_policy: str = "position",
) -> MoePermuted:
    """Copies every token's row to each of its experts, in expert order.

    Args:
        x: [T, h] fp32, fp16, bf16, float8_e4m3fn or float8_e5m2.
        indices: [T, topK] or [T] int32 or int64 expert ids. Ids outside
            [0, num_experts) are dropped: map entry -1, no group shifts, and the rows
            that they would have filled are zeros at the end.
            Or a routing map, bool [T, E]: which experts take which token.
            Or ``moe_route(..., return_row_map=True).row_map``: nothing is counted or
            sorted again, the results are those of the same ids; it brings its padding,
            and there is no capacity. (Of a :class:`RowMap` made by other hands entries
            outside the rows are dropped, and rows that nothing names hold anything.)
        num_experts: E; a routing map or a row map tells it.
        topk: for a routing map, the most experts of any token: more are dropped. Without
            it E, and a row for each of T * E slots.
        probs: [T, topK] (or [T]; [T, E] for a routing map) weights that travel with
            the rows, for whoever applies them in the experts: fp32, bf16 or fp16.
        scales: [T, s] fp32, for rows in float8: the scales of a token's blocks (s = h / 128
            where each 128 features share one) go where its row goes.
        align_size: each expert's rows are padded with zeros to a multiple of this (16, 32
            or 128, say); an expert without rows gets none.
        capacity: an expert keeps at most so many slots, without pads; the others are
            dropped.
        drop_policy: which ones it keeps: "position", the first, or "probs", those of the
            highest ``probs`` (among equals the first, NaN last).

    Returns:
        :class:`MoePermuted`; ``permuted`` is differentiable in ``x`` and
        ``permuted_probs`` in ``probs``. Rows of an expert keep the order of the slots
        t * topK + k. Nothing waits for the device: N is the most rows that any routing of
        so many slots can fill, T * topK and with pads at most E * (align_size - 1) more;
        rows past ``offs[-1]`` are zeros. T * topK - tokens_per_expert.sum() slots were
        dropped.
        (PyTorch cannot add float8 gradients: use one path from x for those.)

    Raises:
        ValueError: a ``drop_policy`` of another name, or "probs" without ``probs``; an
            option that a row map leaves no room for.
        RuntimeError: wrong shapes, dtypes or devices; options below their least value.
    """
    x, probs, scales = local(x), local(probs), local(scales)
    if isinstance(indices, RowMap):
        options = (num_experts, topk, align_size, capacity, drop_policy)
        return _permute_by_map(x, indices, probs, scales, options)
    indices = local(indices)
    if indices.device != x.device:
        indices = indices.to(x.device, non_blocking=True)
    if indices.dtype == torch.bool:
        if num_experts not in (None, indices.shape[-1]):
            raise ValueError(
                f"moe_permute: num_experts got {num_experts}; needs the routing map's "
                f"{indices.shape[-1]}, or leave it away"
            )
        num_experts = indices.shape[-1]
        indices, probs = routing_map_to_indices(indices, topk, probs)
    elif num_experts is None:
        raise TypeError("moe_permute: num_experts got None; needs E, the experts' number")
    elif topk is not None:
        raise ValueError(
            f"moe_permute: topk got {topk} beside expert ids; needs None: it is their width"
        )
    by_probs = _drops_by_probs(drop_policy, probs)
    arguments = (x, indices, num_experts, probs, scales, align_size, capacity, by_probs)
    operator = MoePermute.apply if _needs_grad(x, probs) else raw._moe_permute
    permuted, row_id_map, counts, ends, permuted_probs, permuted_scales = operator(*arguments)
    return MoePermuted(
        permuted,
        row_id_map,
        counts,
        ends,
        None if probs is None else permuted_probs,
        None if scales is None else permuted_scales,
    )


@speaks_for_itself(input="x")
def moe_unpermute(
    x: torch.Tensor,
    row_id_map: torch.Tensor,
    probs: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gathers every token's rows back and sums them: the inverse of :func:`moe_permute`.

    Args:
        x: [N, h] rows in expert order.
        row_id_map: [topK, T] int32 or int64, from moe_permute. Entries outside [0, N)
            contribute nothing, whatever their prob.
        probs: [T, topK] (or [T] for topK = 1) fp32, bf16 or fp16 weights; without them
            every weight is 1.
        residual: [T, h] of x's dtype, added to the sum.

    Returns:
        [T, h] of x's dtype, differentiable in ``x``, ``probs`` and ``residual``: the sum
        over k of ``probs[t, k] * x[row_id_map[k, t]]``, in fp32 in k order, then the
        residual, rounded once (float8 e4m3 saturates, e5m2 overflows to Inf).
    """
    x, row_id_map, probs, residual = local(x), local(row_id_map), local(probs), local(residual)
    if row_id_map.dim() != 2:
        raise ValueError(
            f"moe_unpermute: row_id_map got shape {list(row_id_map.shape)}; needs [topK, tokens], "
            "as moe_permute returns it"
        )
    if row_id_map.device != x.device:
        row_id_map = row_id_map.to(x.device, non_blocking=True)
    if probs is not None:
        if probs.device != x.device:
            probs = probs.to(x.device, non_blocking=True)
        if probs.dim() == 1:
            probs = probs.unsqueeze(1)
    topk = row_id_map.shape[0]
    if _needs_grad(x, probs, residual):
        return Unpermute.apply(x, row_id_map, probs, topk, residual)
    return raw._unpermute(x, row_id_map, probs, topk, residual)


class SortedChunks(NamedTuple):
    """What :func:`sort_chunks` returns."""

    output: torch.Tensor  # [N, h]
    permuted_probs: torch.Tensor | None  # [N]


@speaks_for_itself(input="x")
def sort_chunks(
    x: torch.Tensor,
    split_sizes: torch.Tensor,
    sorted_index: torch.Tensor,
    *,
    probs: torch.Tensor | None = None,
) -> SortedChunks:
    """Puts consecutive chunks of rows into another order.

    With expert parallelism rows arrive by rank and then expert; the experts want them
    by expert and then rank. On the way back ``split_sizes[sorted_index]`` and
    ``sorted_index.argsort()`` undo it.

    Args:
        x: [N, h] fp32, fp16, bf16 or a float8.
        split_sizes: [C] int32 or int64, the rows of each chunk of x.
        sorted_index: [C] int32 or int64: chunk i of the result is chunk sorted_index[i]
            of x. A chunk that is not named is left out; of two equal names the first counts.
        probs: [N] fp32, bf16 or fp16, which travel with their rows.

    Returns:
        :class:`SortedChunks`, differentiable in ``x`` and ``probs``; rows left over are
        zeros. Nothing waits for the device.

    Raises:
        RuntimeError: wrong shapes, dtypes or devices; on the CPU also sizes below 0 or of
            more than N rows, and names outside the chunks (on the device sizes are clamped
            and such names left out).
    """
    x, probs = local(x), local(probs)
    split_sizes = local(split_sizes).to(x.device, non_blocking=True)
    sorted_index = local(sorted_index).to(x.device, non_blocking=True)
    if _needs_grad(x, probs):
        output, permuted_probs = SortChunks.apply(x, split_sizes, sorted_index, probs)
    else:
        output, _, permuted_probs = raw._sort_chunks(x, split_sizes, sorted_index, probs)
    return SortedChunks(output, None if probs is None else permuted_probs)
