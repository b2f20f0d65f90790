"""The originals' backend module: the same operators without autograd.

Operands that require grad are accepted; results never do.
"""

from __future__ import annotations

import torch

from ._functional import _was_written, raw
from ._functional import sinkhorn as _sinkhorn
from ._precision import allows_tf32


@torch.no_grad()
def gmm(
    a: torch.Tensor,
    b: torch.Tensor,
    batch_sizes: torch.Tensor,
    trans_a: bool = False,
    trans_b: bool = False,
    c: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grouped matrix product; ``c``, if given, receives the result and is returned.

    ``trans_a``: a [T, M] and b [T, N] give [E, M, N], per group a transposed times b.
    Otherwise as :func:`grouped_gemm.gmm`.
    """
    if trans_a and trans_b:
        raise ValueError(
            "gmm: trans_a and trans_b got True both; needs at most one of them, since the "
            "product of two transposed operands has no ragged dimension to group"
        )
    if trans_a:
        if c is None:
            return raw._gmm_wgrad(a, b, batch_sizes, False, False, None, allows_tf32(a))
        raw._gmm_wgrad_out(a, b, batch_sizes, False, False, c, False, allows_tf32(a))
        return _was_written(c)
    if c is None:
        return raw._gmm(a, b, batch_sizes, False, trans_b, None, allows_tf32(a))
    raw._gmm_out(a, b, batch_sizes, False, trans_b, c, allows_tf32(a))
    return _was_written(c)


@torch.no_grad()
def permute(
    input: torch.Tensor,
    indices: torch.Tensor,
    num_out_tokens: int,
    workspace: list,
    max_expanded_token_num: int,
) -> tuple[torch.Tensor, torch.Tensor, list]:
    """(permuted rows, row_id_map, workspace): the workspace comes back as it went in."""
    permuted, row_id_map = raw._permute(input, indices.to(input.device), num_out_tokens or 0)
    return permuted, row_id_map, workspace


@torch.no_grad()
def unpermute(
    input: torch.Tensor,
    row_id_map: torch.Tensor,
    prob: torch.Tensor | None,
    max_tokens: int,
    num_topK: int,  # noqa: N803 - the original's name
) -> torch.Tensor:
    """Sums each token's ``num_topK`` rows, weighted by ``prob`` unless it is empty or None."""
    has_probs = prob is not None and prob.numel() > 0
    probs = prob.to(input.device).view(-1, num_topK) if has_probs else None
    return raw._unpermute(input, row_id_map.to(input.device), probs, num_topK)


@torch.no_grad()
def unpermute_bwd(
    input_bwd: torch.Tensor,
    input_fwd: torch.Tensor,
    row_id_map: torch.Tensor,
    prob: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of unpermute: of its rows, and of ``prob`` (prob None: topK = 1)."""
    has_probs = prob is not None and (prob.numel() > 0 or row_id_map.numel() == 0)
    probs = prob.to(input_bwd.device) if has_probs else None
    if probs is not None and probs.dim() == 1:
        probs = probs.unsqueeze(1)
    topk = probs.shape[1] if has_probs else 1
    act_grad, prob_grad = raw._unpermute_bwd(
        input_bwd, input_fwd, row_id_map.to(input_bwd.device), probs, topk, len(input_fwd), True
    )
    return act_grad, prob_grad.to(prob.dtype) if has_probs else prob_grad


@torch.no_grad()
def sinkhorn(cost: torch.Tensor, tol: float = 0.0001) -> torch.Tensor:
    """As :func:`grouped_gemm.sinkhorn`; the argument is not changed."""
    return _sinkhorn(cost, tol)
