"""`MoE`: a Mixture-of-Experts layer composed of this library's operators.

The life of a token: router.py chooses its experts and finds its row beside the other tokens of each
of them, `moe_permute` copies it there, experts.py runs them all in two grouped products,
`moe_unpermute` brings the results back and sums them by the router's weights. No step waits for a
GPU.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from .._local import local
from .._permutation import moe_permute, moe_unpermute
from .._routing import MoeRouted, ScoreFunction, router_load_balancing_loss, router_z_loss
from .checkpoint import fuse_experts
from .experts import Activation, Experts
from .router import Router


class MoEStats(NamedTuple):
    """What a forward pass tells about itself, on the device of its input."""

    tokens_per_expert: Tensor  # int32 [E], how many tokens each expert received; no gradient
    # scalar float32: aux_loss_coef · load-balancing loss + z_loss_coef · z-loss; add it to the loss
    aux_loss: Tensor


class MoE(nn.Module):
    """A Mixture-of-Experts feed-forward layer: [..., h] to [..., h].

    >>> moe = MoE(hidden_size=128, ffn_hidden_size=256, num_experts=8, top_k=2)
    >>> y = moe(x)
    >>> y, stats = moe(x, return_stats=True)      # stats.tokens_per_expert, stats.aux_loss

    Args:
        hidden_size: h, the width of a token.
        ffn_hidden_size: f, the inner width of each expert.
        num_experts: E.
        top_k: how many experts each token visits, 1 to E.
        score_function: "softmax" over the experts or "sigmoid" of each (DeepSeek-V3).
        use_pre_softmax: softmax before the top-k (default), or over the chosen experts alone.
        normalize_topk: scale the chosen experts' weights to sum to 1 (Mixtral; Qwen3's
            `norm_topk_prob`).
        num_groups, group_topk, group_score_topk, scaling_factor: as in `grouped_gemm.moe_route`.
        expert_bias: a bias `gate.e_score_correction_bias` [E] that the choice alone sees, for
            balancing without a loss: call `update_expert_bias()` after each optimizer step.
        expert_bias_update_rate: how far each update moves it.
        activation: "swiglu" or "gelu".
        aux_loss_coef: factor of the load-balancing loss (Switch form, see
            `grouped_gemm.router_load_balancing_loss`). When above 0, training needs
            `return_stats=True` and `stats.aux_loss` in the loss.
        aux_loss_per_sequence: balance each sequence by itself: x is [..., sequence, h].
        z_loss_coef: factor of the z-loss (`grouped_gemm.router_z_loss`), part of
            `stats.aux_loss`; needs what aux_loss_coef needs.
        device, dtype: of the parameters. The router computes in float32 whatever they are.

    Parameters are named as in Transformers: `gate.weight` [E, h]; `experts.gate_up_proj` [E, 2f, h]
    with the gate first (for GELU `experts.up_proj` [E, f, h]); `experts.down_proj` [E, h, f]. There
    are no biases. `load_per_expert_state_dict` reads checkpoints with one weight per expert.

    Works under autocast, activation checkpointing, torch.compile(fullgraph=True), DDP and FSDP2; an
    expert without tokens gets a gradient of zeros.

    Raises:
        ValueError: a size, name or shape that does not fit; the message names it.
        TypeError: tokens and parameters of different dtypes outside autocast.

    The layer is that of Shazeer et al., "Outrageously Large Neural Networks", 2017, without dropped
    tokens and without padding, as in Gale et al., "MegaBlocks", 2022.
    """

    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
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
        expert_bias_update_rate: float = 1e-3,
        activation: Activation = "swiglu",
        aux_loss_coef: float = 0.0,
        aux_loss_per_sequence: bool = False,
        z_loss_coef: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "hidden_size": hidden_size,
            "ffn_hidden_size": ffn_hidden_size,
            "num_experts": num_experts,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(
                    f"MoE: argument {name} got {size}; needs at least 1; pass a positive size"
                )
        if not 1 <= top_k <= num_experts:
            raise ValueError(
                f"MoE: argument top_k got {top_k}; needs 1 to num_experts={num_experts}; "
                "lower top_k or add experts"
            )
        for name, coef in (("aux_loss_coef", aux_loss_coef), ("z_loss_coef", z_loss_coef)):
            if coef < 0:
                raise ValueError(
                    f"MoE: argument {name} got {coef}; needs 0 or more; pass 0 to train without it"
                )
        self.hidden_size, self.num_experts, self.top_k = hidden_size, num_experts, top_k
        self.aux_loss_coef, self.z_loss_coef = aux_loss_coef, z_loss_coef
        self.aux_loss_per_sequence = aux_loss_per_sequence
        self.expert_bias_update_rate = expert_bias_update_rate
        self.gate = Router(
            hidden_size,
            num_experts,
            top_k,
            score_function=score_function,
            use_pre_softmax=use_pre_softmax,
            normalize_topk=normalize_topk,
            num_groups=num_groups,
            group_topk=group_topk,
            group_score_topk=group_score_topk,
            scaling_factor=scaling_factor,
            expert_bias=expert_bias,
            device=device,
            dtype=dtype,
        )
        self.experts = Experts(
            hidden_size,
            ffn_hidden_size,
            num_experts,
            activation=activation,
            device=device,
            dtype=dtype,
        )

    def reset_parameters(self) -> None:
        """Initialise router and experts afresh, for example after `to_empty`."""
        self.gate.reset_parameters()
        self.experts.reset_parameters()

    @overload
    def forward(self, x: Tensor, return_stats: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, return_stats: Literal[True]) -> tuple[Tensor, MoEStats]: ...

    def forward(self, x: Tensor, return_stats: bool = False) -> Tensor | tuple[Tensor, MoEStats]:
        """x [..., h] to [..., h], with `return_stats` also a `MoEStats`. No tokens are fine.

        The result has x's dtype, under autocast the autocast dtype.
        """
        self._check(x, return_stats)
        x = local(x)
        tokens = x.reshape(-1, self.hidden_size)
        has_losses = self.aux_loss_coef > 0 or self.z_loss_coef > 0
        routing = self.gate(
            tokens,
            num_sequences=max(math.prod(x.shape[:-2]), 1) if self.aux_loss_per_sequence else 1,
            return_sums=return_stats and has_losses,
            return_row_map=True,
        )
        if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
            # now rather than in gmm: T rows instead of T*top_k, and narrower rows to move
            tokens = tokens.to(torch.get_autocast_dtype(x.device.type))
        rows, row_id_map, tokens_per_expert, offs, *_ = moe_permute(tokens, routing.routed.row_map)
        rows = self.experts(rows, offs)
        y = moe_unpermute(rows, row_id_map, routing.probs).reshape(x.shape)
        if not return_stats:
            return y
        aux_loss = self._aux_loss(routing.routed) if has_losses else routing.probs.new_zeros(())
        return y, MoEStats(tokens_per_expert, aux_loss)

    def _aux_loss(self, routed: MoeRouted) -> Tensor:
        losses = []
        if self.aux_loss_coef > 0:
            losses.append(self.aux_loss_coef * router_load_balancing_loss(routed))
        if self.z_loss_coef > 0:
            losses.append(self.z_loss_coef * router_z_loss(routed))
        return sum(losses)

    def update_expert_bias(self, group: "torch.distributed.ProcessGroup | None" = None) -> None:
        """Move the experts' bias towards balance: once after each optimizer step.

        By ±`expert_bias_update_rate`, from the tokens that each expert received in training passes
        since the last call, on all ranks of `group` (None: the default group, where
        torch.distributed is initialised). Raises ValueError without `expert_bias=True`.
        """
        self.gate.update_expert_bias(self.expert_bias_update_rate, group)

    def load_per_expert_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str = ""
    ) -> None:
        """Load weights stored one tensor per expert, in Mixtral's or Qwen3's naming.

        Of `state_dict` only the keys that start with `prefix` are read, for example
        "model.layers.0.block_sparse_moe." (Mixtral) or "model.layers.0.mlp." (Qwen3). See
        `fuse_experts` for the names. Raises ValueError for a missing expert or weight and
        RuntimeError, as `load_state_dict` does, for keys or shapes that do not fit this layer.
        """
        own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if not own:
            raise ValueError(
                f"MoE: argument prefix got {prefix!r}; needs the start of some key, such as "
                f"{next(iter(state_dict), None)!r}; pass the path of this layer with its dot"
            )
        self.load_state_dict(fuse_experts(own))

    def _check(self, x: Tensor, return_stats: bool) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"MoE: argument x got {type(x).__name__}; needs a tensor [..., {self.hidden_size}]"
            )
        if x.dim() == 0 or x.shape[-1] != self.hidden_size:
            raise ValueError(
                f"MoE: argument x got shape {tuple(x.shape)}; needs [..., {self.hidden_size}]; "
                "the last dimension is hidden_size"
            )
        has_losses = self.aux_loss_coef > 0 or self.z_loss_coef > 0
        if has_losses and self.training and not return_stats:
            raise ValueError(
                f"MoE: argument return_stats got False; needs True while training with "
                f"aux_loss_coef={self.aux_loss_coef}, z_loss_coef={self.z_loss_coef}, or the "
                "auxiliary loss would be lost; add stats.aux_loss to the loss, or set both to 0"
            )

    def extra_repr(self) -> str:
        return f"aux_loss_coef={self.aux_loss_coef}" if self.aux_loss_coef else ""
