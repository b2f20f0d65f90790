"""What every operator means, as plain PyTorch formulas.

Nothing here is fast and nothing in the package calls it. The tests compare the operators with these
functions, `examples/train_moe_lm.py --compare` trains against `LoopMoE`, and whoever wonders what
an operator computes can read it here. Every function works on any device and is differentiable
wherever the operator is.

Sums are taken in float32 (float64 for float64 inputs) and rounded once, as the operators do.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _wide(x: Tensor) -> Tensor:
    """x in the type that sums are taken in."""
    return x if x.dtype == torch.float64 else x.float()


def gmm(a: Tensor, b: Tensor, batch_sizes: Tensor, trans_b: bool = False) -> Tensor:
    """Grouped matrix product: rows of group e of `a` [T,K] times `b[e]`; result [T,N].

    `b` is [E,K,N], or [E,N,K] with `trans_b`. `batch_sizes` [E] holds the groups' lengths; rows
    past their sum give zeros.
    """
    sizes = batch_sizes.tolist()
    rows = a.split([*sizes, a.shape[0] - sum(sizes)])
    weights = b.mT if trans_b else b
    products = [_wide(rows[e]) @ _wide(weights[e]) for e in range(len(sizes))]
    tail = _wide(rows[-1]) @ _wide(b.new_zeros(weights.shape[1:]))
    return torch.cat([*products, tail]).to(a.dtype)


def gmm_wgrad(a: Tensor, dy: Tensor, batch_sizes: Tensor) -> Tensor:
    """The gradient of `gmm` to its weights: aᵀ dy over each group's rows.

    `a` [T,K], `dy` [T,N], `batch_sizes` [E]; result [E,K,N], exact zeros for an empty group.
    """
    ends = batch_sizes.cumsum(0).tolist()
    bounds = zip([0, *ends[:-1]], ends, strict=True)
    return torch.stack([_wide(a[i:j]).T @ _wide(dy[i:j]) for i, j in bounds]).to(a.dtype)


class Permuted(NamedTuple):
    """The result of `moe_permute`."""

    permuted: Tensor  # [T*topK, h]
    row_id_map: Tensor  # int32 [topK, T]; -1 where dropped
    tokens_per_expert: Tensor  # int32 [E]
    offs: Tensor  # int32 [E], cumulative ends of the groups


def _sort_slots(x: Tensor, ids: Tensor, kept: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Rows of `x` [T,h] ordered by expert, and the row of each slot as int32 [topK,T].

    `ids` and `kept` are [T,topK]. Slots that are not kept, and those sorted at or beyond
    `num_rows`, have no row; rows that no slot fills are zeros.
    """
    num_tokens, top_k = ids.shape
    order = ids.flatten().argsort(stable=True)
    order = order[kept.flatten()[order]][:num_rows]
    row_of_slot = torch.full((num_tokens * top_k,), -1, dtype=torch.int32, device=x.device)
    row_of_slot[order] = torch.arange(order.numel(), dtype=torch.int32, device=x.device)
    rows = _wide(x)[order // max(top_k, 1)]
    permuted = F.pad(rows, (0, 0, 0, num_rows - order.numel())).to(x.dtype)
    return permuted, row_of_slot.view(num_tokens, top_k).T.contiguous()


def permute(
    input_act: Tensor, indices: Tensor, num_out_tokens: int | None = None, max_token_num: int = 0
) -> tuple[Tensor, Tensor]:
    """Drop-in form: copies of the rows of `input_act` [T,h], ordered by expert id.

    `indices` [T,topK] or [T]; ids below 0 are dropped. Result: [num_out_tokens or T*topK, h] and
    the int32 `row_id_map` [topK*T]. `max_token_num` has no meaning here.
    """
    ids = indices.reshape(input_act.shape[0], -1) if indices.numel() else indices.reshape(-1, 1)
    permuted, row_id_map = _sort_slots(input_act, ids, ids >= 0, num_out_tokens or ids.numel())
    return permuted, row_id_map.flatten()


def moe_permute(x: Tensor, indices: Tensor, *, num_experts: int) -> Permuted:
    """Native form: as `permute`, with the experts' number known; ids outside [0,E) drop."""
    kept = (indices >= 0) & (indices < num_experts)
    permuted, row_id_map = _sort_slots(x, indices, kept, indices.numel())
    tokens_per_expert = torch.bincount(indices[kept].flatten(), minlength=num_experts).int()
    return Permuted(permuted, row_id_map, tokens_per_expert, tokens_per_expert.cumsum(0).int())


def moe_unpermute(x: Tensor, row_id_map: Tensor, probs: Tensor | None = None) -> Tensor:
    """Σ_k probs[t,k] · x[row_id_map[k,t]] for every token t; dropped slots add 0.

    `x` [rows,h], `row_id_map` [topK,T], `probs` [T,topK] (None: weight 1); result [T,h] in x's
    dtype.
    """
    num_rows = x.shape[0]
    padded = F.pad(_wide(x), (0, 0, 0, 1))  # one row of zeros for the dropped slots to read
    total = padded.new_zeros(row_id_map.shape[1], x.shape[1])
    for k, rows in enumerate(row_id_map.long()):
        kept = (rows >= 0) & (rows < num_rows)
        term = padded[torch.where(kept, rows, num_rows)]
        if probs is not None:
            term = term * torch.where(kept, _wide(probs[:, k]), 0.0)[:, None]
        total = total + term
    return total.to(x.dtype)


def unpermute(input_act: Tensor, row_id_map: Tensor, probs: Tensor | None = None) -> Tensor:
    """Drop-in form, `row_id_map` [topK*T]: the weighted sum; without `probs` rows in slot order."""
    top_k = 1 if probs is None else probs.shape[1]
    return moe_unpermute(input_act, row_id_map.reshape(top_k, -1), probs)


def sinkhorn(
    cost: Tensor, tol: float = 1e-4, max_iterations: int = 100, eps: float = 1e-8
) -> Tensor:
    """Sinkhorn normalisation of exp(cost) [T,E] in float64; the result has cost's dtype.

    From d0 = d1 = 1: d0 = 1/(T·(C d1 + ε)), d1 = 1/(E·(Cᵀ d0 + ε)) until mean|Δd1| ≤ tol.
    """
    num_tokens, num_experts = cost.shape
    c = cost.double().exp()
    d0, d1 = c.new_ones(num_tokens), c.new_ones(num_experts)
    for _ in range(max_iterations):
        d0 = 1 / (num_tokens * (c @ d1 + eps))
        previous, d1 = d1, 1 / (num_experts * (c.T @ d0 + eps))
        if (d1 - previous).abs().mean() <= tol:
            break
    return (d1 * c * d0[:, None]).to(cost.dtype)


class Routed(NamedTuple):
    """The result of `moe_route`, without the sums."""

    probs: Tensor  # [T, topk]
    indices: Tensor  # int64 [T, topk], best first
    tokens_per_expert: Tensor  # int64 [E]


def moe_route(
    logits: Tensor,
    topk: int,
    *,
    score_function: str = "softmax",
    use_pre_softmax: bool = False,
    normalize_topk: bool = False,
    num_groups: int | None = None,
    group_topk: int | None = None,
    group_score_topk: int = 2,
    scaling_factor: float = 1.0,
    expert_bias: Tensor | None = None,
) -> Routed:
    """Top-k routing of finite `logits` [T,E]: chosen by score plus bias, ties by the lowest index.

    Chosen from the `group_topk` groups whose `group_score_topk` best experts sum to most. Scores
    that round to one value tie here; the operator tells them apart by their logits.
    """
    x = _wide(logits)
    num_tokens, num_experts = x.shape
    post_softmax = score_function == "softmax" and not use_pre_softmax
    scores = x if post_softmax else x.softmax(-1) if score_function == "softmax" else x.sigmoid()
    keys = scores if expert_bias is None else scores + expert_bias.to(x.dtype)
    if num_groups is not None:
        size = num_experts // num_groups
        grouped = keys.view(num_tokens, num_groups, size)
        of_group = grouped.topk(min(group_score_topk, size)).values.sum(-1)
        best = of_group.sort(dim=-1, descending=True, stable=True).indices[:, :group_topk]
        closed = torch.ones_like(of_group, dtype=torch.bool).scatter(1, best, False)
        keys = keys.masked_fill(closed.repeat_interleave(size, 1), -torch.inf)
    indices = keys.sort(dim=-1, descending=True, stable=True).indices[:, :topk]
    probs = scores.gather(1, indices)
    if post_softmax:
        probs = probs.softmax(-1)
    elif normalize_topk:
        probs = probs / probs.sum(-1, keepdim=True)
    counts = torch.bincount(indices.flatten(), minlength=num_experts)
    return Routed(probs * scaling_factor, indices, counts)


class LoopMoE(nn.Module):
    """A Mixture-of-Experts layer as one writes it first: `nn.Linear` experts, called in a loop.

    The same function as `grouped_gemm.nn.MoE` with SwiGLU experts and softmax scores; its
    parameters have the per-expert names of Qwen3 checkpoints.
    """

    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
        num_experts: int,
        top_k: int,
        *,
        normalize_topk: bool = False,
        aux_loss_coef: float = 0.0,
    ) -> None:
        super().__init__()
        self.top_k, self.normalize_topk = top_k, normalize_topk
        self.aux_loss_coef = aux_loss_coef
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        inner, outer = (hidden_size, ffn_hidden_size), (ffn_hidden_size, hidden_size)
        shapes = {"gate_proj": inner, "up_proj": inner, "down_proj": outer}
        self.experts = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})
            for _ in range(num_experts)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [..., h] to (y [..., h], tokens per expert [E], auxiliary loss)."""
        tokens = x.reshape(-1, x.shape[-1])
        scores = self.gate(tokens).float().softmax(dim=-1)
        probs, indices = scores.topk(self.top_k)
        if self.normalize_topk:
            probs = probs / probs.sum(dim=-1, keepdim=True)

        y = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(indices == e)
            mine = tokens[token]
            hidden = F.silu(expert["gate_proj"](mine)) * expert["up_proj"](mine)
            weighted = expert["down_proj"](hidden) * probs[token, slot, None]
            y.index_add_(0, token, weighted.to(y.dtype))

        num_experts = len(self.experts)
        tokens_per_expert = torch.bincount(indices.flatten(), minlength=num_experts)
        share = tokens_per_expert / max(indices.numel(), 1)
        aux_loss = self.aux_loss_coef * num_experts * torch.dot(share, scores.mean(0))
        return y.view(x.shape), tokens_per_expert, aux_loss
