"""The two packages of our module's name: tgale96/grouped_gemm and fanshiqing/grouped_gemm.

``tgg`` has the grouped GEMM; ``fgg`` (nv-grouped-gemm 1.1.4) token permutation and sinkhorn
besides. Each runs in a process of its own whose import path begins with
``--peer-path NAME=FOLDER``, a folder that holds ``grouped_gemm/`` and the built extension module
``grouped_gemm_backend``. GEMMs and movements call ``grouped_gemm.backend``, which is what their
autograd functions call; sizes are int64 on the CPU, as their users pass them.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable

import torch

bench = globals()["bench"]  # the instrument, put here by whoever loads this file
GEMM_OPS, MOVE_OPS = bench.cases.GEMM_OPS, bench.cases.MOVE_OPS

ROW_BYTES = 16  # the permutation kernels read and write rows in pieces of so many bytes
MOST_TOPK = 128
MOST_ELEMENTS = 2**31  # 32-bit indices of elements
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}  # fp8 is compiled out


class Tgg:
    """Grouped GEMM with host sizes, bf16."""

    name = "tgg"
    process, folder_needed = True, True
    graph = False  # host sizes travel to the device from memory that the call frees

    def available(self, device) -> str | None:
        try:
            from grouped_gemm import backend, ops  # noqa: F401
        except (ImportError, OSError) as error:
            return f"not importable: {error}"
        folder = pathlib.Path(self.folder).resolve()
        for name in ("grouped_gemm", "grouped_gemm_backend"):
            found = pathlib.Path(sys.modules[name].__file__).resolve()
            if folder not in found.parents:
                return f"another {name} was imported: {found}"
        return None

    def supports(self, case) -> str | None:
        if case.op in GEMM_OPS:
            if case.dtype != "bf16":
                return "multiplies bf16 only"
            return None if case.out == "same" else "writes the operands' dtype only"
        if case.op == "host":
            return None if case.call == "gmm sizes on the host" else "no such call"
        return "grouped GEMM only"

    def remark(self, case) -> str:
        return "sizes on the CPU"

    def build(self, case, operands) -> Callable[[], object]:
        if case.op == "host":
            return _gemm(case, operands, "fwd")
        return _gemm(case, operands, case.op)


class Fgg(Tgg):
    """Grouped GEMM on several streams, permutation of topK copies, sinkhorn."""

    name = "fgg"
    graph = False  # sorts and balances on the legacy default stream, which no capture takes
    narrow_sums = True  # unpermute and both backwards add or multiply in the element type

    def supports(self, case) -> str | None:
        if case.op == "sinkhorn":
            return None if case.dtype == "fp32" else "fp32 only"
        if case.op in MOVE_OPS:
            return _why_not_moved(case)
        if case.op == "host" and case.call in ("permute", "permute autograd", "unpermute"):
            return None
        return super().supports(case)

    def build(self, case, operands) -> Callable[[], object]:
        if case.op == "sinkhorn":
            return _sinkhorn(operands)
        if case.op in MOVE_OPS:
            return _move(case, operands)
        if case.op == "host" and case.call != "gmm sizes on the host":
            return _host_move(case, operands)
        return super().build(case, operands)

    def remark(self, case) -> str:
        if case.op == "sinkhorn":
            return "mutates its argument, hence a copy of it in each call"
        if case.op in MOVE_OPS:
            return "int32 ids given; adds in the element type"
        return super().remark(case)


def _gemm(case, g, op: str) -> Callable:
    """``g``: x [T,K], w [E,N,K] or [E,K,N], dy [T,N]."""
    from grouped_gemm import backend, ops

    sizes = torch.tensor(g.rows)  # int64 [E], CPU
    if op == "fwd":
        return lambda: backend.gmm(g.x, g.w, sizes, trans_b=g.trans_b)
    if op == "dgrad":
        return lambda: backend.gmm(g.dy, g.w, sizes, trans_b=not g.trans_b)
    if op == "wgrad":
        first, second = (g.dy, g.x) if g.trans_b else (g.x, g.dy)
        return lambda: backend.gmm(first, second, sizes, trans_a=True)

    def train():
        x, w = g.x.detach().requires_grad_(), g.w.detach().requires_grad_()
        y = ops.gmm(x, w, sizes, g.trans_b)
        return y.detach(), *torch.autograd.grad(y, (x, w), g.dy)

    return train


def _why_not_moved(case) -> str | None:
    if case.op == "map":
        return "makes its map in permute only"
    if case.dtype not in ELEMENT_BYTES:
        return f"moves no {case.dtype}"
    if case.hidden * ELEMENT_BYTES[case.dtype] % ROW_BYTES:
        return f"needs rows of a multiple of {ROW_BYTES} bytes"
    if case.topk > MOST_TOPK or case.tokens * case.topk * case.hidden >= MOST_ELEMENTS:
        return "too large for its indices"
    if case.op == "unpermute_bwd" and not case.probs:
        return "needs probs"
    return "ignores probs where topK is 1" if case.probs and case.topk == 1 else None


def _move(case, m) -> Callable:
    from grouped_gemm import backend, ops

    tokens, topk = m.ids.shape
    ids = m.ids.int()
    row_id_map = m.row_id_map.flatten()  # its own form: int32 [topK * T], laid out [topK][T]
    nothing = torch.tensor([])
    probs = nothing if m.probs is None else m.probs
    if case.op == "permute":
        return lambda: ops.permute(m.x, ids)
    if case.op == "unpermute":
        return lambda: backend.unpermute(m.rows, row_id_map, probs, tokens, topk)
    if case.op == "permute_bwd":
        return lambda: backend.unpermute(m.rows, row_id_map, nothing, tokens, topk)
    return lambda: tuple(backend.unpermute_bwd(m.grad, m.rows, row_id_map, probs))


def _sinkhorn(logits) -> Callable:
    from grouped_gemm import ops

    return lambda: ops.sinkhorn_kernel(logits.cost.clone())


def _host_move(case, g) -> Callable:
    from grouped_gemm import ops

    slots = torch.arange(case.tokens * case.topk, device=g.x.device, dtype=torch.int32)
    ids = slots.view(-1, case.topk) % case.experts
    if case.call == "unpermute":
        rows, row_id_map = ops.permute(g.x, ids)
        probs = torch.rand(case.tokens, case.topk, device=g.x.device)
        return lambda: ops.unpermute(rows, row_id_map, probs)
    x = g.x.clone().requires_grad_() if case.call == "permute autograd" else g.x
    return lambda: ops.permute(x, ids)


PEERS = [Tgg(), Fgg()]
