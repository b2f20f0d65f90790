"""Refuses a wrong result before it is timed: whoever is fast and wrong is not fast.

``complaint(case, operands, result)`` is None or what is wrong, in words. Everything must be
finite (outputs are poisoned with NaN beforehand); grouped products then go to ``check_gemm.py``,
movements are checked in full, layers on a sample of tokens. Sums of a movement may be off by one
rounding, or, for peers that say ``narrow_sums``, by one for each term of the sum and one more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cases import GEMM_OPS, MOE_OPS, OPTION_OPS, Case
from .check_gemm import ROUNDING, gemm_complaint
from .operands import Layer, Logits, Move
from .permute_options import option_complaint
from .routing import Route, route_complaint


def poison(num_bytes: list[int], device: torch.device) -> None:
    """Leaves NaN where the caching allocator will put the next results of these sizes."""
    blocks = [torch.full((n,), 0xFF, dtype=torch.uint8, device=device) for n in num_bytes]
    del blocks


def complaint(case: Case, operands, result, narrow_sums: bool = False) -> str | None:
    """None if ``result`` is a right answer to ``case``, else what is wrong."""
    results = result if isinstance(result, tuple) else (result,)
    results = [part for part in results if part is not None]  # what was not asked for
    for index, part in enumerate(results):
        if part.dtype.is_floating_point and not _all_finite(part):
            return f"result {index} holds NaN or Inf, or elements that were never written"
    if case.op in GEMM_OPS:
        parts = ("fwd", "dgrad", "wgrad") if case.op == "train" else (case.op,)
        for part, tensor in zip(parts, results, strict=True):
            wrong = gemm_complaint(part, case, operands, tensor)
            if wrong:
                return f"{part}: {wrong}"
        return None
    if case.op in OPTION_OPS:
        return option_complaint(case, operands, results, _merged, _close)
    if isinstance(operands, Move):
        return _move_complaint(case, operands, results, narrow_sums)
    if isinstance(operands, Route):
        return route_complaint(case, operands, results)
    if isinstance(operands, Logits):
        return _sinkhorn_complaint(operands, results[0])
    if case.op in MOE_OPS:
        return _layer_complaint(case, operands, results)
    return None  # host calls: their operators are checked by the other cases


def _all_finite(tensor: Tensor) -> bool:
    if tensor.dtype == torch.float8_e4m3fn:  # NaN is its only special value
        return not bool((tensor.view(torch.uint8) & 0x7F == 0x7F).any())
    pieces = tensor.split(1 << 14) if tensor.dim() < 3 else tensor.unbind(0)
    return all(bool(torch.isfinite(piece).all()) for piece in pieces)


def _move_complaint(case: Case, move: Move, results: tuple, narrow_sums: bool) -> str | None:
    topk = move.ids.shape[1]
    if case.op == "map":
        right = torch.equal(results[-1].view(topk, -1), move.row_id_map)
        return None if right else "the row map differs from a stable sort's"
    if case.op == "permute":
        want = _bits(move.x)[move.order // topk]
        right = torch.equal(_bits(results[0]), want)
        return None if right else "the rows differ from those of a stable sort"
    if case.op in ("unpermute", "permute_bwd"):
        want, terms = _merged(move, case.op == "unpermute")
        # topk roundings of partial sums, each at most the sum of |terms|, and one of each product
        slack = (topk + 1) * ROUNDING[results[0].dtype] * terms if narrow_sums else 0.0
        return _close(results[0], want, "rows", slack=slack)
    return _unpermute_bwd_complaint(case, move, results, narrow_sums)


def _merged(move: Move, weighted: bool) -> tuple[Tensor, Tensor]:
    """Each token's sum of rows in float32, and the sum of the terms' sizes."""
    total = torch.zeros(move.x.shape, device=move.x.device)
    sizes = torch.zeros_like(total)
    for k, rows in enumerate(move.row_id_map.long()):
        term = _gathered(move.rows, rows)
        if weighted and move.probs is not None:
            term *= move.probs[:, k, None]
        total += term
        sizes += term.abs()
    return total, sizes


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as integers: compares exactly, and indexes where fp8 cannot."""
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()])


def _gathered(rows: Tensor, index: Tensor) -> Tensor:
    return _bits(rows)[index].view(rows.dtype).float()


def _unpermute_bwd_complaint(
    case: Case, move: Move, results: tuple, narrow_sums: bool
) -> str | None:
    tokens, topk = move.ids.shape
    grad = move.grad.float()
    # of each product in the element type, summed in float32
    rounding = ROUNDING[move.rows.dtype] if narrow_sums else 0.0
    for k, rows in enumerate(move.row_id_map.long()):
        want = grad if move.probs is None else grad * move.probs[:, k, None]
        slack = rounding * want.abs()
        wrong = _close(results[0], want, f"row gradients of k = {k}", rows, slack)
        if wrong:
            return wrong
        if case.probs:
            terms = _gathered(move.rows, rows) * grad
            allowed = (1e-5 + rounding) * terms.abs().sum(1) + 1e-6
            off = (results[1].view(tokens, topk)[:, k] - terms.sum(1)).abs()
            if bool((off > allowed).any()):
                return f"prob gradients of k = {k} are off by up to {float(off.max()):.3g}"
    return None


def _close(
    got: Tensor,
    want: Tensor,
    what: str,
    index: Tensor | None = None,
    slack: Tensor | float = 0.0,
) -> str | None:
    """One rounding from float32 and ``slack``; e4m3 saturates and has subnormals near zero."""
    rounding = ROUNDING[got.dtype]
    floor = 2.0**-9 if got.dtype == torch.float8_e4m3fn else 1e-6
    if got.dtype == torch.float8_e4m3fn:
        want = want.clamp(-448, 448)
    values = got.float() if index is None else _gathered(got, index)
    off = (values - want).abs() - 1.05 * rounding * want.abs() - floor - slack
    worst = float(off.max()) if off.numel() else 0.0
    return None if worst <= 0 else f"{what}: an element is off by {worst:.3g} beyond rounding"


def _sinkhorn_complaint(logits: Logits, got: Tensor) -> str | None:
    """A balanced matrix: columns sum to 1 / E, rows to 1 / T within the tolerance reached."""
    tokens, experts = logits.cost.shape
    columns = (got.double().sum(0) * experts - 1).abs().max()
    rows = (got.double().sum(1) * tokens - 1).abs().max()
    if float(columns) > 1e-3 or float(rows) > 0.05:
        return f"columns are off by {float(columns):.3g} and rows by {float(rows):.3g} of their sum"
    return None


def _layer_complaint(case: Case, layer: Layer, results: tuple) -> str | None:
    """A sample of tokens through dense float32 experts; gradients for finiteness only."""
    count = min(64, layer.x.shape[0])
    x = layer.x[:count].float()
    probs, ids = (x @ layer.gate.float().T).softmax(-1).topk(layer.topk)
    want = torch.zeros_like(x)
    for t in range(count):
        for p, e in zip(probs[t], ids[t].tolist(), strict=True):
            gate, up = (layer.gate_up[e].float() @ x[t]).chunk(2)
            want[t] += p * (layer.down[e].float() @ (torch.nn.functional.silu(gate) * up))
    off = (results[0][:count].float() - want).norm(dim=1) / want.norm(dim=1)
    limit = 20 * ROUNDING[results[0].dtype] + 1e-4  # four roundings on the way, and ties of top-k
    wrong = int((off > limit).sum())
    return f"{wrong} of {count} sampled tokens are wrong" if wrong > count // 32 else None
