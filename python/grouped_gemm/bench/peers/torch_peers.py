"""What PyTorch itself offers: ``torch``, grouped_mm and its composition, and ``loop``, the Python
loop over experts that everybody writes first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .. import routing
from ..cases import GEMM_OPS, MOE_OPS, MOVE_OPS, OPTION_OPS, ROUTE_OPS, Case
from ..operands import Gemm, Layer, Move


class TorchGrouped:
    """torch.nn.functional.grouped_mm; sort, gather and sum for the permutation."""

    name = "torch"

    def available(self, device: torch.device) -> str | None:
        return None if hasattr(F, "grouped_mm") else f"torch {torch.__version__} has no grouped_mm"

    def supports(self, case: Case) -> str | None:
        if case.op in OPTION_OPS:
            return "plain permutations only"
        if case.op in MOVE_OPS and case.dtype == "fp8":
            return "torch gathers and sums no fp8"
        if case.op == "host":
            known = ("gmm sizes on the device", "gmm offs", "gmm autograd")
            return None if case.call in known else "no such call"
        if case.op in (*GEMM_OPS, *MOE_OPS):
            if case.dtype not in ("bf16",):
                return "grouped_mm computes bf16 only"
            if case.out != "same":
                return "grouped_mm has no float32 output"
        return None

    def build(self, case: Case, operands) -> Callable[[], object]:
        if case.op in GEMM_OPS:
            return _grouped(case, operands)
        if case.op in MOVE_OPS:
            return _move(case, operands)
        if case.op in ROUTE_OPS:
            formula = routing.PLAIN[case.op]
            values = routing.arguments(case, operands)
            return lambda: formula(*values)
        if case.op == "sinkhorn":
            return lambda: _sinkhorn(operands.cost)
        if case.op == "host":
            return _host(case, operands)
        return _layer(case, operands)


def _grouped(case: Case, g: Gemm) -> Callable:
    w_kn, offs = g.w_kn, g.offs
    if case.op == "fwd":
        return lambda: F.grouped_mm(g.x, w_kn, offs=offs)
    if case.op == "dgrad":
        return lambda: F.grouped_mm(g.dy, w_kn.transpose(1, 2), offs=offs)
    if case.op == "wgrad":
        first, second = (g.dy, g.x) if g.trans_b else (g.x, g.dy)
        return lambda: F.grouped_mm(first.t(), second, offs=offs)

    def train():
        x, w = g.x.detach().requires_grad_(), g.w.detach().requires_grad_()
        y = F.grouped_mm(x, w.transpose(1, 2) if g.trans_b else w, offs=offs)
        return y.detach(), *torch.autograd.grad(y, (x, w), g.dy)

    return train


def _row_map(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = ids.flatten().argsort(stable=True)
    row_of_slot = torch.empty_like(order, dtype=torch.int32)
    row_of_slot[order] = torch.arange(order.numel(), dtype=torch.int32, device=ids.device)
    return order, row_of_slot.view(ids.shape).T.contiguous()


def _counts(ids: torch.Tensor, experts: int) -> torch.Tensor:
    """Rows of each expert without waiting for the device, as torch.bincount would."""
    flat = ids.flatten()
    return torch.zeros(experts, dtype=flat.dtype, device=flat.device).scatter_add_(
        0, flat, torch.ones_like(flat)
    )


def _move(case: Case, m: Move) -> Callable:
    tokens, topk = m.ids.shape
    if case.op == "map":
        return lambda: _row_map(m.ids)
    if case.op == "permute":  # the map too, as ours makes it

        def permute():
            order, row_id_map = _row_map(m.ids)
            counts = _counts(m.ids, m.experts)
            return m.x.index_select(0, order // topk), row_id_map, counts

        return permute
    slots = m.row_id_map.T.reshape(-1).long()  # [T * topK]: the row of each slot
    if case.op in ("unpermute", "permute_bwd"):
        probs = m.probs if case.op == "unpermute" else None

        def merge():
            rows = m.rows.index_select(0, slots).view(tokens, topk, -1).float()
            if probs is not None:
                rows = rows * probs[:, :, None]
            return rows.sum(1).to(m.rows.dtype)

        return merge

    def unpermute_bwd():
        token = m.order // topk
        grad = m.grad.index_select(0, token).float()
        weighted = grad if m.probs is None else grad * m.probs.flatten()[m.order][:, None]
        if m.probs is None:
            return (weighted.to(m.rows.dtype),)
        dots = (grad * m.rows.float()).sum(1)
        probs_grad = torch.empty_like(dots)
        probs_grad[m.order] = dots
        return weighted.to(m.rows.dtype), probs_grad.view(tokens, topk)

    return unpermute_bwd


def _sinkhorn(cost: torch.Tensor, tol: float = 1e-4) -> torch.Tensor:
    """The formula as frameworks write it, which waits for the device in every iteration."""
    c = torch.exp(cost)
    d1 = torch.ones(c.shape[1], device=c.device)
    error = float("inf")
    while error > tol:
        d0 = 1 / (c.shape[0] * ((d1 * c).sum(1) + 1e-8))
        previous, d1 = d1, 1 / (c.shape[1] * ((d0[:, None] * c).sum(0) + 1e-8))
        error = float((d1 - previous).abs().mean())
    return d1 * c * d0[:, None]


def _layer(case: Case, layer: Layer) -> Callable:
    from .ours import layer_call

    gate_up = layer.gate_up.detach().requires_grad_()
    down = layer.down.detach().requires_grad_()

    def moe(x: torch.Tensor) -> torch.Tensor:
        scores = (x.float() @ layer.gate.float().T).softmax(-1)
        probs, ids = scores.topk(layer.topk)
        order = ids.flatten().argsort(stable=True)
        offs = _counts(ids, gate_up.shape[0]).cumsum(0).int()
        rows = x[order // layer.topk]
        gate, up = F.grouped_mm(rows, gate_up.transpose(1, 2), offs=offs).chunk(2, -1)
        out = F.grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=offs)
        merged = torch.empty_like(out)
        merged = merged.index_copy(0, order, out).view(*ids.shape, -1)
        return (merged.float() * probs[:, :, None]).sum(1).to(x.dtype)

    return layer_call(moe, case, layer, (gate_up, down))


def _host(case: Case, g: Gemm) -> Callable:
    x, w = g.x, g.w
    if case.call == "gmm autograd":
        x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    w_kn = w.transpose(1, 2)
    return lambda: F.grouped_mm(x, w_kn, offs=g.offs)


class Loop:
    """A Python loop over experts, into slices of the result; sizes known to the host."""

    name = "loop"

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        if case.op not in GEMM_OPS:
            return "a loop over experts multiplies only"
        return None if case.out == "same" else "torch.mm has no such output"

    def build(self, case: Case, g: Gemm) -> Callable[[], object]:
        ends = torch.tensor([0, *g.rows]).cumsum(0).tolist()
        spans = [slice(i, j) for i, j in zip(ends[:-1], ends[1:], strict=True)]
        w_kn = g.w_kn

        def forward(left, matrices):
            out = torch.empty(left.shape[0], matrices.shape[2], dtype=left.dtype, device=g.x.device)
            for e, span in enumerate(spans):
                torch.mm(left[span], matrices[e], out=out[span])
            return out

        def wgrad():
            out = torch.empty_like(g.w)
            first, second = (g.dy, g.x) if g.trans_b else (g.x, g.dy)
            for e, span in enumerate(spans):
                torch.mm(first[span].t(), second[span], out=out[e])
            return out

        calls = {
            "fwd": lambda: forward(g.x, w_kn),
            "dgrad": lambda: forward(g.dy, w_kn.transpose(1, 2)),
            "wgrad": wgrad,
        }
        if case.op == "train":
            return lambda: tuple(call() for call in calls.values())
        return calls[case.op]
