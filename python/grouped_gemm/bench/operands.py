"""The tensors of a case, and what a right result of it looks like in shape.

``Operands`` keeps what neighbouring cases share (a model's x, w and dy serve three passes and
every distribution), so that setting up costs less than measuring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .cases import GEMM_OPS, MOE_OPS, MOVE_OPS, OPTION_OPS, ROUTE_OPS, Case
from .routing import Route, route_operands
from .sizes import expert_ids, group_sizes

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp8": torch.float8_e4m3fn,
}


@dataclass
class Gemm:
    """A grouped product: x [T,K], w [E,N,K] or [E,K,N], dy [T,N]; group sizes three ways."""

    x: Tensor
    w: Tensor
    dy: Tensor
    trans_b: bool  # w is [E, N, K]
    rows: list[int]  # group sizes on the host
    sizes: Tensor  # int64 [E] on the device
    offs: Tensor  # int32 [E] cumulative ends on the device
    accumulator: Tensor | None = None  # fp32 of w's shape, for `+=`

    @property
    def w_kn(self) -> Tensor:
        """w as [E, K, N], a view."""
        return self.w.transpose(1, 2) if self.trans_b else self.w

    def reset(self) -> None:
        """Puts the accumulator back to what the check expects."""
        if self.accumulator is not None:
            self.accumulator.fill_(1.0)


@dataclass
class Move:
    """A permutation: x [T,h], ids [T,topK], the right map and order, rows and gradients."""

    x: Tensor
    ids: Tensor
    experts: int
    order: Tensor  # int64 [N]: slot t * topK + k of each row
    row_id_map: Tensor  # int32 [topK, T]
    rows: Tensor  # [N, h], what unpermute reads and permute_bwd gets
    grad: Tensor  # [T, h], what unpermute_bwd gets
    probs: Tensor | None

    def reset(self) -> None:
        """Nothing is written in place."""


@dataclass
class Layer:
    """A MoE layer: tokens x, gradient dy, router [E,h], experts gate_up [E,2f,h], down [E,h,f]."""

    x: Tensor
    dy: Tensor
    gate: Tensor
    gate_up: Tensor
    down: Tensor
    topk: int

    def reset(self) -> None:
        """Nothing is written in place."""


@dataclass
class Logits:
    """sinkhorn: cost [T, E] in [0, 1)."""

    cost: Tensor

    def reset(self) -> None:
        """Nothing is written in place."""


@dataclass
class Operands:
    """Makes operands on one device, keeping those of the shape that was asked for last."""

    device: torch.device
    _key: tuple = ()
    _kept: dict[str, Tensor] = field(default_factory=dict)

    def of(self, case: Case) -> Gemm | Move | Layer | Logits | Route:
        """The operands of a case; raises torch.OutOfMemoryError where they do not fit."""
        if case.op in GEMM_OPS or case.op == "host":
            return self._gemm(case)
        if case.op in (*MOVE_OPS, *OPTION_OPS):
            return self._move(case)
        if case.op in MOE_OPS:
            return self._layer(case)
        if case.op in ROUTE_OPS:
            return route_operands(case, self.device)
        generator = torch.Generator().manual_seed(case.seed)
        cost = torch.rand(case.tokens, case.experts, generator=generator)
        return Logits(cost.to(self.device, DTYPES[case.dtype]))

    def drop(self) -> None:
        """Gives the memory back."""
        self._key, self._kept = (), {}

    def randn(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        """Normal values, made in slices so that float32 copies stay small."""
        out = torch.empty(shape, dtype=dtype, device=self.device)
        pieces = out.unbind(0) if out.dim() == 3 else out.split(1 << 14)
        for piece in pieces:
            piece.copy_(torch.randn(piece.shape, device=self.device) * scale)
        return out

    def _keep(self, key: tuple, make) -> dict[str, Tensor]:
        if self._key != key:
            self.drop()
            torch.manual_seed(0)
            self._kept, self._key = make(), key
        return self._kept

    def _gemm(self, case: Case) -> Gemm:
        dtype, trans_b = DTYPES[case.dtype], case.layout == "nk"
        experts, tokens, k, n = case.experts, case.tokens, case.k, case.n

        def make():
            matrix = (n, k) if trans_b else (k, n)
            return {
                "x": self.randn(tokens, k, dtype=dtype),
                "w": self.randn(experts, *matrix, dtype=dtype, scale=1 / math.sqrt(k)),
                "dy": self.randn(tokens, n, dtype=dtype),
            }

        kept = self._keep(("gemm", experts, tokens, k, n, case.dtype, trans_b), make)
        kind = case.sizes or "balanced"
        rows = group_sizes(kind, experts, tokens, case.seed)
        sizes = torch.tensor(rows).to(self.device)
        if case.out == "acc" and "acc" not in kept:
            kept["acc"] = torch.empty(kept["w"].shape, device=self.device)
        accumulator = kept["acc"] if case.out == "acc" else None
        return Gemm(
            kept["x"], kept["w"], kept["dy"], trans_b, rows, sizes, sizes.cumsum(0).int(),
            accumulator,
        )  # fmt: skip

    def _move(self, case: Case) -> Move:
        dtype = DTYPES[case.dtype]
        tokens, topk, hidden = case.tokens, case.topk, case.hidden

        def make():
            ids = expert_ids(case.experts, tokens, topk, case.seed).to(self.device)
            order = ids.flatten().argsort(stable=True)
            row_of_slot = torch.empty_like(order, dtype=torch.int32)
            row_of_slot[order] = torch.arange(order.numel(), dtype=torch.int32, device=self.device)
            return {
                "x": self.randn(tokens, hidden, dtype=dtype),
                "rows": self.randn(tokens * topk, hidden, dtype=dtype),
                "grad": self.randn(tokens, hidden, dtype=dtype),
                "ids": ids,
                "order": order,
                "row_id_map": row_of_slot.view(tokens, topk).T.contiguous(),
                "probs": torch.rand(tokens, topk, device=self.device),
            }

        kept = dict(self._keep(("move", tokens, topk, hidden, case.experts, case.dtype), make))
        if not case.probs and case.op not in OPTION_OPS:
            kept["probs"] = None
        return Move(experts=case.experts, **kept)

    def _layer(self, case: Case) -> Layer:
        dtype = DTYPES[case.dtype]
        experts, tokens, hidden, inner = case.experts, case.tokens, case.k, case.n

        def make():
            h_scale, f_scale = 1 / math.sqrt(hidden), 1 / math.sqrt(inner)
            return {
                "x": self.randn(tokens, hidden, dtype=dtype),
                "dy": self.randn(tokens, hidden, dtype=dtype),
                "gate": self.randn(experts, hidden, dtype=dtype, scale=h_scale),
                "gate_up": self.randn(experts, 2 * inner, hidden, dtype=dtype, scale=h_scale),
                "down": self.randn(experts, hidden, inner, dtype=dtype, scale=f_scale),
            }

        kept = self._keep(("layer", experts, tokens, hidden, inner, case.dtype), make)
        return Layer(topk=case.topk, **kept)
