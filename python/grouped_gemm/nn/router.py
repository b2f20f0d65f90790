"""The router of a Mixture-of-Experts layer: which experts see a token, and with what weight.

Called by moe.py. Plain PyTorch: the router is small beside the experts.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ScoreFunction = Literal["softmax", "sigmoid"]


class Routing(NamedTuple):
    """The router's answer for T tokens."""

    probs: Tensor  # [T, top_k], weight of each chosen expert; float32 (float64 for float64 tokens)
    indices: Tensor  # int64 [T, top_k], the chosen experts, best first
    scores: Tensor  # [T, E], every expert's score, in the dtype of probs


class Router(nn.Module):
    """Linear scores, softmax or sigmoid, the `top_k` best, optionally renormalised to sum to 1.

    Everything is computed in float32 whatever the dtype of tokens, weight or autocast, since a
    rounded score sends a token to another expert (float64 tokens: in float64).

    The score functions: softmax as in Shazeer et al., "Outrageously Large Neural Networks", 2017
    (Mixtral and Qwen3 take it before the top-k); sigmoid as in DeepSeek-V3, 2024.
    """

    def __init__(
        self,
        hidden_size: int,
        num_experts: int,
        top_k: int,
        *,
        score_function: ScoreFunction = "softmax",
        normalize_topk: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if score_function not in get_args(ScoreFunction):
            raise ValueError(
                f"MoE: argument score_function got {score_function!r}; "
                f"needs one of {get_args(ScoreFunction)}; choose one of them"
            )
        self.hidden_size, self.num_experts, self.top_k = hidden_size, num_experts, top_k
        self.score_function, self.normalize_topk = score_function, normalize_topk
        self.weight = nn.Parameter(
            torch.empty(num_experts, hidden_size, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as `nn.Linear` does: uniform in ±1/√hidden_size."""
        bound = 1 / math.sqrt(self.hidden_size)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, tokens: Tensor) -> Routing:
        """tokens [T, h] to their experts."""
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        with torch.autocast(tokens.device.type, enabled=False):
            logits = F.linear(tokens.to(dtype), self.weight.to(dtype))
            scores = logits.softmax(-1) if self.score_function == "softmax" else logits.sigmoid()
            probs, indices = scores.topk(self.top_k, dim=-1)
            if self.normalize_topk:
                # NOTE: sigmoid scores may all underflow to 0; softmax's top-k sum is at least k/E.
                probs = probs / probs.sum(-1, keepdim=True).clamp_min(torch.finfo(dtype).tiny)
        return Routing(probs, indices, scores)

    def extra_repr(self) -> str:
        return (
            f"{self.hidden_size}, num_experts={self.num_experts}, top_k={self.top_k}, "
            f"score_function={self.score_function!r}, normalize_topk={self.normalize_topk}"
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
