"""The ceilings at a case's own size: others can hardly be faster than these.

``dense`` is one torch.mm of the case's FLOPs without groups; ``copy`` copies the case's bytes;
``x * 2`` is the least that a call costs the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..cases import GEMM_OPS, MOE_OPS, MOVE_OPS, OPTION_OPS, ROUTE_OPS, Case
from ..floors import bytes_moved
from ..operands import Gemm, Layer


class Dense:
    """torch.mm of the same M, N, K without groups: the ceiling of a compute-bound case."""

    name = "dense"
    ceiling = True

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return None if case.op in (*GEMM_OPS, *MOE_OPS) else "no products"

    def build(self, case: Case, operands) -> Callable[[], object]:
        if case.op in MOE_OPS:
            return _dense_layer(case, operands)
        g = operands
        w = g.w_kn[0]
        first, second = (g.dy, g.x) if g.trans_b else (g.x, g.dy)
        calls = {
            "fwd": lambda: torch.mm(g.x, w),
            "dgrad": lambda: torch.mm(g.dy, w.t()),
            "wgrad": lambda: torch.mm(first.t(), second),
        }
        if case.op == "train":
            return lambda: [call() for call in calls.values()]
        return calls[case.op]


def _dense_layer(case: Case, layer: Layer) -> Callable:
    """The layer's products, each as one torch.mm on topK times the rows."""
    x = layer.x.repeat(case.topk, 1)
    up, down = layer.gate_up[0].t(), layer.down[0].t()  # [h, 2f], [f, h]
    inner = torch.mm(x, up)
    half = inner[:, : case.n].contiguous()

    def forward():
        torch.mm(x, up)
        torch.mm(half, down)

    def train():
        forward()
        torch.mm(x, down.t())
        torch.mm(half.t(), x)
        torch.mm(inner, up.t())
        torch.mm(inner.t(), x)

    return forward if case.op == "moe" else train


class Copy:
    """A copy of as many bytes as the case must move: half read, half written."""

    name = "copy"
    ceiling = True
    graph = True

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        memory_bound = case.op in (*MOVE_OPS, *OPTION_OPS, *ROUTE_OPS, "sinkhorn")
        return None if memory_bound and bytes_moved(case) else "bound by its products"

    def build(self, case: Case, operands) -> Callable[[], object]:
        device = next(v.device for v in vars(operands).values() if isinstance(v, torch.Tensor))
        return copy_call(bytes_moved(case), device)


def copy_call(num_bytes: int, device: torch.device) -> Callable[[], object]:
    """A kernel, not cudaMemcpy: the copy engine of a graph's memcpy node is no ceiling."""
    words = max(4, num_bytes // 8 // 4 * 4)
    source = torch.rand(words, device=device)
    target = torch.empty_like(source)
    return lambda: torch.neg(source, out=target)


class Launch:
    """One elementwise operation of PyTorch: the least that a call costs the host."""

    name = "x * 2"
    ceiling = True

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return None if case.op == "host" else "host cases only"

    def build(self, case: Case, operands: Gemm) -> Callable[[], object]:
        return lambda: operands.x * 2.0
