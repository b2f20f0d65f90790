"""The originals' backend module: the same operators without autograd.

Operands that require grad are accepted; results never do.
"""

from __future__ import annotations

import torch

from ._autograd import with_topk
from ._errors import speaks_for_itself
from ._functional import _was_written, _writable, raw
from ._functional import sinkhorn as _sinkhorn
from ._local import local
from ._precision import allows_tf32


@speaks_for_itself(out="c", dy="b")
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
    a, b, sizes = local(a), local(b), local(batch_sizes)
    if trans_a:
        if c is None:
            return raw._gmm_wgrad(a, b, sizes, False, False, None, allows_tf32(a))
        raw._gmm_wgrad_out(
            a, b, sizes, False, False, _writable("gmm", "c", c), False, allows_tf32(a)
        )
        return _was_written(c)
    if c is None:
        return raw._gmm(a, b, sizes, False, trans_b, None, allows_tf32(a))
    raw._gmm_out(a, b, sizes, False, trans_b, _writable("gmm", "c", c), allows_tf32(a))
    return _was_written(c)


@speaks_for_itself()
@torch.no_grad()
def permute(
    input: torch.Tensor,
    indices: torch.Tensor,
    num_out_tokens: int,
    workspace: list,
    max_expanded_token_num: int,
) -> tuple[torch.Tensor, torch.Tensor, list]:
    """(permuted rows, row_id_map, workspace): the workspace comes back as it went in."""
    input, indices = local(input), local(indices)
    permuted, row_id_map = raw._permute(input, indices.to(input.device), num_out_tokens or 0)
    return permuted, row_id_map, workspace


@speaks_for_itself(probs="prob")
@torch.no_grad()
def unpermute(
    input: torch.Tensor,
    row_id_map: torch.Tensor,
    prob: torch.Tensor | None,
    max_tokens: int,
    num_topK: int,  # noqa: N803 - the original's name
) -> torch.Tensor:
    """Sums each token's ``num_topK`` rows, weighted by ``prob`` unless it is empty or None."""
    input, row_id_map, prob = local(input), local(row_id_map), local(prob)
    has_probs = prob is not None and prob.numel() > 0
    if has_probs and (num_topK < 1 or prob.numel() % num_topK):
        raise ValueError(
            f"unpermute: num_topK got {num_topK} beside prob of shape {list(prob.shape)}; needs "
            "the experts of a token, prob's width"
        )
    probs = prob.to(input.device).reshape(-1, num_topK) if has_probs else None
    return raw._unpermute(input, row_id_map.to(input.device), probs, num_topK)


@speaks_for_itself(probs="prob", input="input_fwd", grad="input_bwd", output_grad="input_bwd")
@torch.no_grad()
def unpermute_bwd(
    input_bwd: torch.Tensor,
    input_fwd: torch.Tensor,
    row_id_map: torch.Tensor,
    prob: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of unpermute: of its rows, and of ``prob`` (prob None: topK = 1)."""
    grad, rows, prob = local(input_bwd), local(input_fwd), local(prob)
    row_id_map = local(row_id_map).to(grad.device)
    probs, topk = with_topk(row_id_map, None if prob is None else prob.to(grad.device))
    act_grad, prob_grad = raw._unpermute_bwd(
        grad, rows, row_id_map, probs, topk, rows.shape[0], True
    )
    return act_grad, prob_grad if probs is None else prob_grad.to(prob.dtype)


@speaks_for_itself()
@torch.no_grad()
def sinkhorn(cost: torch.Tensor, tol: float = 0.0001) -> torch.Tensor:
    """As :func:`grouped_gemm.sinkhorn`; the argument is not changed."""
    return _sinkhorn(cost, tol)
