"""Top-k routing in the instrument: its cases, operands, check, bytes and PyTorch's formula.

``route/TxtopKxE/fp32`` is a forward pass without gradients (softmax over the chosen logits, ids,
counts), ``route_bwd`` the gradient of the logits; ``route_map`` is the forward with the row map
that a permutation takes, which the peer ``two-calls`` makes by ``moe_permute``. The other modules
ask here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import Case

TOKENS, EXPERTS, TOPKS = (512, 4096, 16384, 65536), (8, 64, 128, 256), (1, 2, 8)
MAPS = ((1, 8, 128), (64, 8, 128), (512, 8, 128), (4096, 8, 128), (16384, 8, 128), (65536, 8, 128),
        (512, 2, 8), (16384, 2, 8), (4096, 6, 64), (16384, 8, 256), (16384, 8, 1024))  # fmt: skip


@dataclass
class Route:
    """logits [T,E] fp32 without ties; the right weights and ids; the weights' gradient."""

    logits: Tensor
    topk: int
    probs: Tensor  # [T, topk]
    indices: Tensor  # int64 [T, topk]
    probs_grad: Tensor  # [T, topk]

    def reset(self) -> None:
        """Nothing is written in place."""


def route_cases() -> Iterable[Case]:
    for tokens in TOKENS:
        for experts in EXPERTS:
            for topk in TOPKS:
                level = "default" if (tokens, experts, topk) == (16384, 128, 8) else "all"
                shape = f"{tokens}x{topk}x{experts}"
                for op in ("route", "route_bwd"):
                    yield Case(f"{op}/{shape}/fp32", op, "fp32", level, experts, tokens, topk=topk)
    for tokens, topk, experts in MAPS:
        level = "default" if (tokens, experts, topk) == (16384, 128, 8) else "all"
        name = f"route_map/{tokens}x{topk}x{experts}/fp32"
        yield Case(name, "route_map", "fp32", level, experts, tokens, topk=topk)


def route_operands(case: Case, device: torch.device) -> Route:
    generator = torch.Generator().manual_seed(case.seed)
    rows = torch.rand(case.tokens, case.experts, generator=generator).to(device).argsort(-1)
    logits = 4.0 * rows / case.experts - 2.0  # every row another order of one grid
    chosen, indices = logits.topk(case.topk, dim=-1)
    probs_grad = torch.randn(case.tokens, case.topk, generator=generator).to(device)
    return Route(logits, case.topk, chosen.softmax(-1), indices, probs_grad)


def formula(logits: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """(probs, indices, tokens per expert) as one writes it in PyTorch."""
    chosen, indices = logits.topk(topk, dim=-1)
    return chosen.softmax(-1), indices, _counts(indices, logits.shape[1])


def formula_map(logits: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with the row map [topk, T] by a stable sort."""
    probs, indices, counts = formula(logits, topk)
    return probs, indices, counts, _row_map(indices)


def formula_bwd(probs: Tensor, indices: Tensor, probs_grad: Tensor, num_experts: int) -> Tensor:
    """The gradient of the logits, from what autograd saves: the weights and ids."""
    change = probs * (probs_grad - (probs * probs_grad).sum(-1, keepdim=True))
    zeros = torch.zeros(probs.shape[0], num_experts, device=probs.device)
    return zeros.scatter(1, indices, change)


def fusable(logits: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same as topk maxima one after the other, of which a compiler can make one kernel."""
    experts = torch.arange(logits.shape[1], device=logits.device)
    left, values, ids = logits, [], []
    for _ in range(topk):
        value, index = left.max(-1)
        left = torch.where(experts == index[:, None], -torch.inf, left)
        values.append(value)
        ids.append(index)
    indices = torch.stack(ids, -1)
    return torch.stack(values, -1).softmax(-1), indices, _counts(indices, logits.shape[1])


def fusable_map(logits: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    probs, indices, counts = fusable(logits, topk)
    return probs, indices, counts, _row_map(indices)


def fusable_bwd(probs: Tensor, indices: Tensor, probs_grad: Tensor, num_experts: int) -> Tensor:
    """The same as a sum of one-hot rows: no zeros to fill first."""
    change = probs * (probs_grad - (probs * probs_grad).sum(-1, keepdim=True))
    experts = torch.arange(num_experts, device=probs.device)
    rows = [
        torch.where(experts == indices[:, k, None], change[:, k, None], 0.0)
        for k in range(probs.shape[1])
    ]
    return sum(rows[1:], rows[0])


def _counts(indices: Tensor, num_experts: int) -> Tensor:
    ids = indices.flatten()
    counts = torch.zeros(num_experts, dtype=torch.int32, device=ids.device)
    return counts.scatter_add(0, ids, torch.ones_like(ids, dtype=torch.int32))


def _row_map(indices: Tensor) -> Tensor:
    order = indices.flatten().argsort(stable=True)
    rows = torch.arange(order.numel(), dtype=torch.int32, device=order.device)
    row_of_slot = torch.empty_like(rows).scatter(0, order, rows)
    return row_of_slot.view(indices.shape).T.contiguous()


PLAIN = {"route": formula, "route_map": formula_map, "route_bwd": formula_bwd}
FUSABLE = {"route": fusable, "route_map": fusable_map, "route_bwd": fusable_bwd}


def two_calls(gg, r: Route):
    """route_map by routing first and sorting its ids then, for rows of no width."""
    x = torch.empty(r.logits.shape[0], 0, device=r.logits.device)

    def call():
        probs, indices, counts, *_ = gg.moe_route(r.logits, r.topk)
        permuted = gg.moe_permute(x, indices, num_experts=r.logits.shape[1])
        return probs, indices, counts, permuted.row_id_map

    return call


def ours(gg, case: Case, r: Route):
    if case.op == "route":
        return lambda: gg.moe_route(r.logits, r.topk)[:3]
    if case.op == "route_map":

        def call():
            routed = gg.moe_route(r.logits, r.topk, return_row_map=True)
            return *routed[:3], routed.row_map.row_id_map

        return call
    raw, indices = torch.ops.grouped_gemm, r.indices.int()
    options = (r.topk, False, False, False, 1.0, 1)
    return lambda: raw._route_bwd(r.logits, indices, r.probs, r.probs_grad, None, None, *options)


def arguments(case: Case, r: Route) -> tuple:
    """Of the case's formula: tensors of T rows first, then a number."""
    if case.op in ("route", "route_map"):
        return r.logits, r.topk
    return r.probs, r.indices, r.probs_grad, case.experts


def route_complaint(case: Case, r: Route, results: tuple) -> str | None:
    if case.op == "route_bwd":
        want = formula_bwd(r.probs, r.indices, r.probs_grad, case.experts)
        off = float((results[0] - want).abs().max())
        return None if off <= 1e-5 else f"a gradient is off by {off:.3g}"
    if len(results) == 2:  # weights [T, E], zeros where not chosen, and a mask of the chosen
        want = torch.zeros_like(r.logits).scatter(1, r.indices, r.probs)
        off = float((results[0] - want).abs().max())
        right = torch.equal(results[1] != 0, want != 0) and off <= 1e-5
        return None if right else f"a weight is off by {off:.3g}, or the mask differs"
    probs, indices, counts, *row_map = results
    if not torch.equal(indices.long(), r.indices):
        return "the chosen experts differ"
    if not torch.equal(counts.long(), torch.bincount(r.indices.flatten(), minlength=case.experts)):
        return "the counts differ"
    if row_map and not torch.equal(row_map[0], _row_map(r.indices)):
        return "the row map differs from a stable sort's"
    off = float((probs - r.probs).abs().max())
    return None if off <= 1e-5 else f"a weight is off by {off:.3g}"


def route_bytes(case: Case) -> int:
    """Logits read, ids (int32), weights and the map written; backward: ids, weights and the
    weights' gradient read, the logits' gradient written (that of weights alone needs no logits)."""
    logits, chosen = case.tokens * case.experts * 4, case.tokens * case.topk * 4
    return logits + (2 if case.op == "route" else 3) * chosen
