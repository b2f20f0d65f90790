"""grouped_gemm itself, through its public functions: the package under test.

The one module of the instrument that imports it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import permute_options, routing
from ..cases import GEMM_OPS, MOVE_OPS, OPTION_OPS, ROUTE_OPS, Case
from ..operands import DTYPES, Gemm, Layer, Move


class Ours:
    name = "ours"

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return None

    def explain(self, case: Case, device: torch.device) -> str:
        """The library's own plan of the case: what ``info`` prints too."""
        from .. import paths

        return paths.explain_case(case, paths.Where.of(device))

    def iterations(self, operands) -> int:
        """Of sinkhorn at the default tolerance."""
        import grouped_gemm

        return int(grouped_gemm.sinkhorn(operands.cost, return_info=True)[1].iterations)

    def build(self, case: Case, operands) -> Callable[[], object]:
        import grouped_gemm

        if case.op in GEMM_OPS:
            return _gemm(grouped_gemm, case, operands)
        if case.op in MOVE_OPS:
            return _move(grouped_gemm, case, operands)
        if case.op in OPTION_OPS:
            return permute_options.ours(grouped_gemm, case, operands)
        if case.op in ROUTE_OPS:
            return routing.ours(grouped_gemm, case, operands)
        if case.op == "sinkhorn":
            return lambda: grouped_gemm.sinkhorn(operands.cost)
        if case.op == "host":
            return _host(grouped_gemm, case, operands)
        return _layer(grouped_gemm, case, operands)


class TwoCalls:
    """The row map of a routing by two operators, which ``ours`` makes by one."""

    name = "two-calls"
    asked_for = True  # measured with --peer two-calls only

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return None if case.op == "route_map" else "only a routing with its row map"

    def build(self, case: Case, operands) -> Callable[[], object]:
        import grouped_gemm

        return routing.two_calls(grouped_gemm, operands)


def _gemm(gg, case: Case, g: Gemm) -> Callable:
    options = {"trans_b": g.trans_b}
    if case.out == "fp32":
        options["out_dtype"] = torch.float32
    if case.op == "fwd":
        return lambda: gg.gmm(g.x, g.w, g.sizes, **options)
    if case.op == "dgrad":
        return lambda: gg.gmm_dgrad(g.dy, g.w, g.sizes, **options)
    if case.op == "train":
        return lambda: forward_backward(gg.gmm, g)
    if case.out == "acc":
        options |= {"out": g.accumulator, "accumulate": True}
    return lambda: gg.gmm_wgrad(g.x, g.dy, g.sizes, **options)


def forward_backward(gmm: Callable, g: Gemm) -> tuple:
    x, w = g.x.detach().requires_grad_(), g.w.detach().requires_grad_()
    y = gmm(x, w, g.sizes, trans_b=g.trans_b)
    return y.detach(), *torch.autograd.grad(y, (x, w), g.dy)


def _move(gg, case: Case, m: Move) -> Callable:
    raw = torch.ops.grouped_gemm
    topk, num_rows = m.ids.shape[1], m.rows.shape[0]
    if case.op == "map":  # rows of no width: only the map and the counts remain

        def row_map():
            return gg.moe_permute(m.x, m.ids, num_experts=m.experts).row_id_map

        return row_map
    if case.op == "permute":
        return lambda: gg.moe_permute(m.x, m.ids, num_experts=m.experts)
    if case.op == "unpermute":
        return lambda: gg.moe_unpermute(m.rows, m.row_id_map, m.probs)
    # The raw operators of the backward passes: what autograd calls, without its bookkeeping.
    if case.op == "permute_bwd":
        return lambda: raw._unpermute(m.rows, m.row_id_map, None, topk)
    x = m.rows if case.probs else None
    return lambda: raw._unpermute_bwd(m.grad, x, m.row_id_map, m.probs, topk, num_rows, True)


def _layer(gg, case: Case, layer: Layer) -> Callable:
    from grouped_gemm.nn import MoE

    moe = MoE(
        case.k, case.n, case.experts, case.topk, dtype=DTYPES[case.dtype], device=layer.x.device
    )
    with torch.no_grad():
        moe.gate.weight.copy_(layer.gate)
    moe.experts.gate_up_proj = torch.nn.Parameter(layer.gate_up)  # the operands' own memory
    moe.experts.down_proj = torch.nn.Parameter(layer.down)
    return layer_call(moe, case, layer, (moe.experts.gate_up_proj, moe.experts.down_proj))


def layer_call(moe: Callable, case: Case, layer: Layer, weights: tuple) -> Callable:
    """Forward alone without a graph, or forward and backward to x and the expert weights."""
    if case.op == "moe":

        def forward():
            with torch.no_grad():
                return moe(layer.x)

        return forward

    def train():
        x = layer.x.detach().requires_grad_()
        y = moe(x)
        return y.detach(), *torch.autograd.grad(y, (x, *weights), layer.dy)

    return train


def _host(gg, case: Case, g: Gemm) -> Callable:
    """One call at shapes where the host's time is all there is."""
    x, w, sizes, offs = g.x, g.w, g.sizes, g.offs
    ids = torch.arange(case.tokens * case.topk, device=x.device).view(-1, case.topk) % case.experts
    probs = torch.rand(case.tokens, case.topk, device=x.device)
    permuted, row_id_map = gg.permute(x, ids)
    x_grad, w_grad = x.clone().requires_grad_(), w.clone().requires_grad_()
    sizes_host = sizes.cpu()
    moved = gg.moe_permute(x, ids, num_experts=case.experts)
    calls = {
        "gmm sizes on the device": lambda: gg.gmm(x, w, sizes, trans_b=g.trans_b),
        "gmm offs": lambda: gg.gmm(x, w, offs=offs, trans_b=g.trans_b),
        "gmm sizes on the host": lambda: gg.gmm(x, w, sizes_host, trans_b=g.trans_b),
        "gmm autograd": lambda: gg.gmm(x_grad, w_grad, sizes, trans_b=g.trans_b),
        "gmm_wgrad": lambda: gg.gmm_wgrad(x, g.dy, sizes, trans_b=g.trans_b),
        "permute": lambda: gg.permute(x, ids),
        "permute autograd": lambda: gg.permute(x_grad, ids),
        "unpermute": lambda: gg.unpermute(permuted, row_id_map, probs),
        "moe_permute": lambda: gg.moe_permute(x, ids, num_experts=case.experts),
        "moe_unpermute": lambda: gg.moe_unpermute(moved.permuted, moved.row_id_map, probs),
    }
    if case.call == "MoE forward":
        return _layer_forward(case, x)
    return calls[case.call]


def _layer_forward(case: Case, x: torch.Tensor) -> Callable:
    from grouped_gemm.nn import MoE

    moe = MoE(case.k, case.n, case.experts, case.topk, dtype=x.dtype, device=x.device)
    call = torch.no_grad()(moe)
    return lambda: call(x)
