"""The router of a Mixture-of-Experts layer: which experts see a token, and with what weight.

Called by moe.py. A linear layer, then `moe_route`, one fused operator.
"""

import math
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._local import local
from .._routing import MoeRouted, ScoreFunction, moe_route


class Routing(NamedTuple):
    """The router's answer for T tokens."""

    probs: Tensor  # [T, top_k], weight of each chosen expert; float32 (float64 for float64 tokens)
    indices: Tensor  # int32 [T, top_k], the chosen experts, best first
    tokens_per_expert: Tensor  # int32 [E]
    routed: MoeRouted  # everything that moe_route returned, for the losses
    logits: Tensor  # [T, E], in the dtype of probs
    score_function: ScoreFunction

    @property
    def scores(self) -> Tensor:
        """[T, E], every expert's score; computed when asked for."""
        return (
            self.logits.softmax(-1) if self.score_function == "softmax" else self.logits.sigmoid()
        )


class Router(nn.Module):
    """Linear logits, then their `top_k` best experts by `grouped_gemm.moe_route`.

    Everything is computed in float32 whatever the dtype of tokens, weight or autocast, since a
    rounded score sends a token to another expert (float64 tokens: in float64, on the CPU).

    Arguments as `MoE`'s. With `expert_bias` there is a buffer `e_score_correction_bias` [E], which
    `update_expert_bias` moves; it stays float32 whatever `.to(dtype)` says, since its steps are too
    small for fewer bits.
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int,
        *,
        score_function: ScoreFunction = "softmax",
        use_pre_softmax: bool = True,
        normalize_topk: bool = False,
        num_groups: int | None = None,
        group_topk: int | None = None,
        group_score_topk: int = 2,
        scaling_factor: float = 1.0,
        expert_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if score_function not in get_args(ScoreFunction):
            raise ValueError(
                f"MoE: argument score_function got {score_function!r}; "
                f"needs one of {get_args(ScoreFunction)}; choose one of them"
            )
        _check_groups(num_experts, top_k, num_groups, group_topk)
        self.hidden_size, self.num_experts, self.top_k = hidden_size, num_experts, top_k
        self.score_function, self.use_pre_softmax = score_function, use_pre_softmax
        self.normalize_topk, self.scaling_factor = normalize_topk, scaling_factor
        self.num_groups, self.group_topk = num_groups, group_topk
        self.group_score_topk, self.expert_bias = group_score_topk, expert_bias
        self.weight = nn.Parameter(
            torch.empty(num_experts, hidden_size, device=device, dtype=dtype)
        )
        if expert_bias:
            bias = torch.empty(num_experts, device=device, dtype=torch.float32)
            counts = torch.empty(num_experts, device=device, dtype=torch.int64)
            self.register_buffer("e_score_correction_bias", bias)
            self.register_buffer("tokens_since_update", counts, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as `nn.Linear` does, uniform in ±1/√hidden_size; the bias to zeros."""
        bound = 1 / math.sqrt(self.hidden_size)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.expert_bias:
            self.e_score_correction_bias.zero_()
            self.tokens_since_update.zero_()

    def forward(
        self,
        tokens: Tensor,
        *,
        num_sequences: int = 1,
        return_sums: bool = False,
        return_row_map: bool = False,
    ) -> Routing:
        """tokens [T, h] to their experts; the keywords are `moe_route`'s."""
        tokens = local(tokens)
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(tokens.to(dtype), local(self.weight).to(dtype))
        routed = moe_route(
            logits,
            self.top_k,
            score_function=self.score_function,
            use_pre_softmax=self.use_pre_softmax,
            normalize_topk=self.normalize_topk,
            num_groups=self.num_groups,
            group_topk=self.group_topk,
            group_score_topk=self.group_score_topk,
            scaling_factor=self.scaling_factor,
            expert_bias=self.e_score_correction_bias if self.expert_bias else None,
            num_sequences=num_sequences,
            return_sums=return_sums,
            return_row_map=return_row_map,
        )
        if self.expert_bias and self.training and torch.is_grad_enabled():
            self.tokens_since_update.add_(routed.tokens_per_expert)
        probs, indices, tokens_per_expert, *_ = routed
        return Routing(probs, indices, tokens_per_expert, routed, logits, self.score_function)

    @torch.no_grad()
    def update_expert_bias(
        self, rate: float, group: "torch.distributed.ProcessGroup | None" = None
    ) -> None:
        """Raise the bias of underused experts by `rate`, lower that of overused ones.

        By the tokens of the training passes since the last call, of all ranks of `group` (None:
        the default group, where torch.distributed is initialised). Nothing waits for the device.
        Source: Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy", 2024.
        """
        if not self.expert_bias:
            raise ValueError(
                "MoE: argument expert_bias got False; needs True for update_expert_bias; "
                "make the layer with expert_bias=True"
            )
        counts = self.tokens_since_update
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if group is not None or distributed:
            torch.distributed.all_reduce(counts, group=group)
        shortage = counts.sum() - counts * self.num_experts  # E times the mean's surplus: exact
        self.e_score_correction_bias.add_(shortage.sign(), alpha=rate)
        counts.zero_()

    def _apply(self, fn, recurse=True):
        bias = self._buffers.get("e_score_correction_bias")
        super()._apply(fn, recurse)
        if bias is not None and self.e_score_correction_bias.dtype != torch.float32:
            self.e_score_correction_bias = bias.to(self.e_score_correction_bias.device)
        return self

    def extra_repr(self) -> str:
        text = (
            f"{self.hidden_size}, num_experts={self.num_experts}, top_k={self.top_k}, "
            f"score_function={self.score_function!r}, normalize_topk={self.normalize_topk}"
        )
        if self.num_groups is not None:
            text += f", num_groups={self.num_groups}, group_topk={self.group_topk}"
        return text + (", expert_bias=True" if self.expert_bias else "")


def _check_groups(
    num_experts: int, top_k: int, num_groups: int | None, group_topk: int | None
) -> None:
    if num_groups is None and group_topk is None:
        return
    if num_groups is None or num_groups < 1 or num_experts % num_groups:
        raise ValueError(
            f"MoE: argument num_groups got {num_groups}; needs a divisor of "
            f"num_experts={num_experts}; choose one"
        )
    if group_topk is None or not 1 <= group_topk <= num_groups:
        raise ValueError(
            f"MoE: argument group_topk got {group_topk}; needs 1 to num_groups={num_groups}; "
            "choose how many groups a token may visit"
        )
    reach = num_experts // num_groups * group_topk
    if top_k > reach:
        raise ValueError(
            f"MoE: argument top_k got {top_k}; needs at most {reach}, the experts of "
            f"group_topk={group_topk} groups; lower top_k or raise group_topk"
        )


def load_balancing_loss(scores: Tensor, tokens_per_expert: Tensor) -> Tensor:
    """E · Σ_e f_e · P_e: 1 for a balanced router, up to E when one expert takes everything.

    f_e is the share of the slots that expert e received, P_e the mean of its scores (each token's
    scores scaled to sum to 1). Source: Fedus et al., "Switch Transformers", 2021, equation 4.

    `scores` [T, E], `tokens_per_expert` int [E]; result: a scalar in scores' dtype, 0 when T = 0.
    The gradient flows through the scores alone. Under data parallelism it is the loss of this
    rank's tokens.
    """
    num_tokens, num_experts = scores.shape
    share = tokens_per_expert.to(scores.dtype)
    share = share / share.sum().clamp_min(1)
    # softmax scores sum to 1 already; sigmoid scores do not
    tiny = torch.finfo(scores.dtype).tiny
    mean_score = (scores / scores.sum(-1, keepdim=True).clamp_min(tiny)).sum(0) / max(num_tokens, 1)
    return num_experts * torch.dot(share, mean_score)
