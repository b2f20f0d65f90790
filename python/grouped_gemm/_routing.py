"""Routing: fused top-k with its auxiliary losses.

One operator reads the logits once and returns all that a Mixture-of-Experts layer needs of them;
the losses are short formulas over its sums. Shapes: T tokens, E experts. Start with
:func:`moe_route`; the layer that uses it is nn/router.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch

from ._autograd import MoeRoute
from ._errors import speaks_for_itself
from ._functional import _needs_grad, raw
from ._local import local
from ._permutation import RowMap

ScoreFunction = Literal["softmax", "sigmoid"]


class MoeRouted(NamedTuple):
    """What :func:`moe_route` returns, all on the logits' device; S = num_sequences."""

    probs: torch.Tensor  # [T, topk] float32 (float64 for float64 logits), best expert first
    indices: torch.Tensor  # [T, topk] int32, as moe_permute takes them
    tokens_per_expert: torch.Tensor  # [E] int32
    tokens_per_sequence: torch.Tensor  # [S, E] int32: the same for each sequence
    score_sums: torch.Tensor  # [S, E] float32, with return_sums; else [0, E]
    z_sums: torch.Tensor  # [S] float32, with return_sums; else [0]
    row_map: RowMap | None = None  # with return_row_map: what moe_permute takes for indices


@speaks_for_itself()
def moe_route(
    logits: torch.Tensor,
    topk: int,
    *,
    score_function: ScoreFunction = "softmax",
    use_pre_softmax: bool = False,
    normalize_topk: bool = False,
    num_groups: int | None = None,
    group_topk: int | None = None,
    group_score_topk: int = 2,
    scaling_factor: float | None = None,
    expert_bias: torch.Tensor | None = None,
    num_sequences: int = 1,
    return_sums: bool = False,
    return_row_map: bool = False,
    align_size: int = 1,
) -> MoeRouted:
    """Chooses each token's experts and their weights, and counts: top-k routing in one pass.

    Args:
        logits: [T, E] fp32, bf16 or fp16 (fp64 on the CPU), E up to 1024; computed in
            fp32. Autocast changes nothing here.
        topk: experts per token, 1 to 32.
        score_function: "softmax" over the experts, or "sigmoid" of each logit.
        use_pre_softmax: softmax before the top-k, so that the weights sum to less than
            1; else softmax over the chosen logits. Of no effect for sigmoid.
        normalize_topk: scale the chosen scores to sum to 1. (Softmax over the chosen
            logits does already.)
        num_groups, group_topk: choose only from the ``group_topk`` best of ``num_groups``
            (up to 32) equal groups of neighbouring experts.
        group_score_topk: a group's score is the sum of that many of its best experts':
            2 as DeepSeek-V3, 1 (its maximum) as DeepSeek-V2.
        scaling_factor: multiplies the weights; None: 1.
        expert_bias: [E], added to the scores for choosing alone; no gradient.
        num_sequences: the tokens are so many sequences of equal length, one after the
            other; sums and counts for each of them.
        return_sums: also the sums that :func:`router_load_balancing_loss` and
            :func:`router_z_loss` take.
        return_row_map: also where each slot's row goes in expert order, as ``row_map``: then
            :func:`moe_permute` takes that in place of ``indices`` and counts and sorts
            nothing.
        align_size: with return_row_map each expert's rows are padded to a multiple of this,
            as by moe_permute.

    Returns:
        :class:`MoeRouted`. ``probs``, ``score_sums`` and ``z_sums`` are differentiable in
        ``logits``; ``score_sums`` is the sum over tokens of their scores over all experts,
        scaled to sum to 1 for each token, ``z_sums`` that of (log sum exp logits)^2. The
        backward pass takes ``probs`` as they were returned: autograd refuses it where they
        were changed in place (write ``probs = probs / x``, not ``probs /= x``).

    Experts are chosen by score plus bias; where that order is the logits' own (no bias,
    no groups), by the logits, so that scores that round to the same value do not tie.
    Ties go to the lowest index. A logit of -inf masks an expert: weight 0, chosen only
    where nothing else is left. NaN counts as the largest: ids stay in range, weights show
    it; with the environment variable ``GG_CHECK_ROUTING=1`` such logits (+inf too) raise
    RuntimeError, at the price of waiting for the device in every call. Otherwise nothing
    waits, and results repeat bit for bit.

    Argument by argument, for callers of others (in brackets what they always do)::

        moe_route         Megatron-LM                     Transformer Engine  Hugging Face
        topk              moe_router_topk                 topk                num_experts_per_tok
        score_function    moe_router_score_function       score_function      scoring_func
        use_pre_softmax   moe_router_pre_softmax          use_pre_softmax     (True)
        normalize_topk    (True for sigmoid)              (True for sigmoid)  norm_topk_prob
        num_groups        moe_router_num_groups           num_groups          n_group
        group_topk        moe_router_group_topk           group_topk          topk_group
        group_score_topk  (topk // group_topk)            (as Megatron-LM)    (2)
        scaling_factor    moe_router_topk_scaling_factor  scaling_factor      routed_scaling_factor
        expert_bias       moe_router_enable_expert_bias   expert_bias         (a buffer's name)

    Sources: softmax gating: Shazeer et al., "Outrageously Large Neural Networks", 2017;
    sigmoid, bias and groups: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024.
    """
    if score_function not in get_args(ScoreFunction):
        raise ValueError(
            f"moe_route: score_function got {score_function!r}; "
            f"needs one of {get_args(ScoreFunction)}; choose one of them"
        )
    if (num_groups is None) != (group_topk is None):
        given, missing = ("num_groups", "group_topk")[:: 1 if group_topk is None else -1]
        raise ValueError(f"moe_route: {missing} got None beside {given}; needs both, or neither")
    logits = local(logits)
    if expert_bias is not None:
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        expert_bias = local(expert_bias).detach().to(logits.device, wide)
    options = (
        topk,
        score_function == "sigmoid",
        use_pre_softmax,
        normalize_topk,
        1 if num_groups is None else num_groups,
        1 if group_topk is None else group_topk,
        group_score_topk,
        1.0 if scaling_factor is None else float(scaling_factor),
        num_sequences,
        return_sums,
        return_row_map,
        align_size,
    )
    call = MoeRoute.apply if _needs_grad(logits) else raw._route
    probs, indices, counts, *sums, row_id_map, offs = call(logits, expert_bias, *options)
    in_all = counts[0] if num_sequences == 1 else counts.sum(0, dtype=torch.int32)
    row_map = RowMap(row_id_map, in_all, offs, align_size) if return_row_map else None
    return MoeRouted(probs, indices, in_all, counts, *sums, row_map)


def router_load_balancing_loss(routed: MoeRouted) -> torch.Tensor:
    """E * sum_e f_e * P_e: 1 for a balanced router, up to E / topk where all agree.

    f_e is the share of the slots that expert e received, P_e its mean score (each token's
    scores scaled to sum to 1), both over a sequence; the result is the mean over sequences.
    Source: Fedus et al., "Switch Transformers", 2021, equation 4; by sequence: DeepSeek-V3.

    Args:
        routed: of :func:`moe_route` with ``return_sums=True``. For a loss over several
            ranks, add up its counts and sums first (``routed._replace(...)``).

    Returns:
        A scalar, differentiable through the scores; 0 without tokens.
    """
    sums = _sums(routed.score_sums, "router_load_balancing_loss", "score_sums")
    counts = routed.tokens_per_sequence.to(sums.dtype)
    slots = counts.sum(1, keepdim=True).clamp_min(1)
    num_tokens = (slots / routed.indices.shape[1]).clamp_min(1)
    return sums.shape[1] * (counts / slots * (sums / num_tokens)).sum(1).mean()


def router_z_loss(routed: MoeRouted) -> torch.Tensor:
    """Mean over tokens of (log sum exp logits)^2, which keeps logits small.

    Source: Zoph et al., "ST-MoE", 2022, equation 5.

    Args:
        routed: of :func:`moe_route` with ``return_sums=True``.

    Returns:
        A scalar, differentiable in the logits; 0 without tokens.
    """
    sums = _sums(routed.z_sums, "router_z_loss", "z_sums")
    return sums.sum() / max(routed.indices.shape[0], 1)


def _sums(sums: torch.Tensor, function: str, name: str) -> torch.Tensor:
    if sums.shape[0] == 0:
        raise ValueError(
            f"{function}: routed got {name} of shape {list(sums.shape)}; needs the sums of every "
            "sequence; call moe_route with return_sums=True"
        )
    return sums
