"""The drop-in surface of nv-grouped-gemm and grouped_gemm: ``grouped_gemm.ops``.

Names, argument orders and results as their users know them; semantics where the
originals leave room: the README's migration section.
"""

from __future__ import annotations

import torch

from . import (
    _autograd,
    backend,  # noqa: F401 - `grouped_gemm.ops.backend`, as the originals had it
)
from ._autograd import with_topk
from ._errors import speaks_for_itself
from ._functional import _needs_grad, gmm, raw, sinkhorn
from ._local import local

__all__ = [
    "GroupedGemm",
    "PermuteMoE_topK",
    "UnpermuteMoE_topK",
    "gmm",
    "permute",
    "sinkhorn_kernel",
    "unpermute",
]


@speaks_for_itself(input="input_act")
def permute(
    input_act: torch.Tensor,
    indices: torch.Tensor,
    num_out_tokens: int | None = None,
    max_token_num: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies every token's row to each of its experts, in expert order.

    Args:
        input_act: [T, h] fp32, fp16, bf16, float8_e4m3fn or float8_e5m2.
        indices: [T, topK] or [T] int32 or int64 expert ids. Any id >= 0 is an expert;
            an id < 0 is dropped: map entry -1, no group shifts.
        num_out_tokens: rows of the result; slots sorted at or beyond it are dropped,
            rows beyond the last slot are zeros. None or 0: T * topK.
        max_token_num: accepted for compatibility; without effect, since no workspace
            outlives a call.

    Returns:
        permuted_act [num_out_tokens, h], differentiable in ``input_act``, and row_id_map
        int32 [topK * T]: entry k * T + t is the row of token t's k-th copy, or -1.
        (PyTorch cannot add float8 gradients.)
    """
    input_act, indices = local(input_act), local(indices)
    if indices.device != input_act.device:
        indices = indices.to(input_act.device, non_blocking=True)
    if _needs_grad(input_act):
        return _autograd.PermuteMoE_topK.apply(input_act, indices, num_out_tokens, max_token_num)
    return raw._permute(input_act, indices, 0 if num_out_tokens is None else num_out_tokens)


@speaks_for_itself(input="input_act")
def unpermute(
    input_act: torch.Tensor, row_id_map: torch.Tensor, probs: torch.Tensor | None = None
) -> torch.Tensor:
    """Gathers every token's rows back and sums them with weights.

    Args:
        input_act: [N, h] rows in expert order.
        row_id_map: int32 or int64 [topK * T] from :func:`permute`; entries outside
            [0, N) contribute nothing.
        probs: [T, topK] fp32, bf16 or fp16 weights. Without them topK is taken as 1:
            one row for each map entry, in the map's order, zeros where dropped
            (:func:`grouped_gemm.moe_unpermute` sums instead).

    Returns:
        [T, h] of input_act's dtype, differentiable in ``input_act`` and ``probs``;
        accumulated in fp32 in k order and rounded once (float8 e4m3 saturates, e5m2
        overflows to Inf; PyTorch cannot add float8 gradients).
    """
    input_act, row_id_map, probs = local(input_act), local(row_id_map), local(probs)
    device = input_act.device
    if row_id_map.device != device:
        row_id_map = row_id_map.to(device, non_blocking=True)
    if probs is not None and probs.device != device:
        probs = probs.to(device, non_blocking=True)
    if _needs_grad(input_act, probs):
        return _autograd.UnpermuteMoE_topK.apply(input_act, row_id_map, probs)
    return raw._unpermute(input_act, row_id_map, *with_topk(row_id_map, probs))


def sinkhorn_kernel(cost: torch.Tensor, tol: float = 0.0001) -> torch.Tensor:
    """:func:`grouped_gemm.sinkhorn` with the original's name and arguments."""
    return sinkhorn(cost, tol)


# The originals' classes: ``apply`` is the function above, so that it casts, moves, unwraps and
# explains as that does. (torch.compile traces forward and backward instead.)
class GroupedGemm(_autograd.GroupedGemm):
    """``apply(a, b, batch_sizes, trans_b)``; see :func:`grouped_gemm.gmm`."""

    apply = staticmethod(gmm)


class PermuteMoE_topK(_autograd.PermuteMoE_topK):  # noqa: N801 - the original's name
    """``apply(input_act, indices, num_out_tokens, max_token_num)``; see :func:`permute`."""

    apply = staticmethod(permute)


class UnpermuteMoE_topK(_autograd.UnpermuteMoE_topK):  # noqa: N801 - the original's name
    """``apply(input_act, row_id_map, probs)``; see :func:`unpermute`."""

    apply = staticmethod(unpermute)
