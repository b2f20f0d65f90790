"""The experts of a Mixture-of-Experts layer: one feed-forward network per group of rows.

Called by moe.py. Two grouped matrix products with an activation between them.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._functional import gmm
from .._main_grad import follows_main_grad, gmm_main_grad

Activation = Literal["swiglu", "gelu"]


def _product(rows: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    function = gmm_main_grad if follows_main_grad(weight) else gmm
    return function(rows, weight, offs=offs, trans_b=True)


class Experts(nn.Module):
    """E feed-forward networks without biases, applied to consecutive groups of rows.

    The parameters are named as in Transformers, one tensor for all experts:

    - "swiglu" (Shazeer, "GLU Variants Improve Transformer", 2020): `gate_up_proj` [E, 2f, h] whose
      first f rows are the gate, and `down_proj` [E, h, f]; down(silu(gate(x)) · up(x)).
    - "gelu": `up_proj` [E, f, h] and `down_proj` [E, h, f]; down(gelu(up(x))), the exact GELU.
    """

    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
        num_experts: int,
        *,
        activation: Activation = "swiglu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(
                f"MoE: argument activation got {activation!r}; "
                f"needs one of {get_args(Activation)}; choose one of them"
            )
        self.hidden_size, self.ffn_hidden_size = hidden_size, ffn_hidden_size
        self.num_experts, self.activation = num_experts, activation

        def weight(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(num_experts, rows, columns, device=device, dtype=dtype))

        if activation == "swiglu":
            self.gate_up_proj = weight(2 * ffn_hidden_size, hidden_size)
        else:
            self.up_proj = weight(ffn_hidden_size, hidden_size)
        self.down_proj = weight(hidden_size, ffn_hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise every expert as `nn.Linear` does: uniform in ±1/√(input features)."""
        for parameter in self.parameters():
            bound = 1 / math.sqrt(parameter.shape[-1])
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, rows: Tensor, offs: Tensor) -> Tensor:
        """rows [R, h], sorted by expert, to [R, h]; `offs` int [E] says where each group ends."""
        dtype = self.down_proj.dtype
        if rows.dtype != dtype and not torch.is_autocast_enabled(rows.device.type):
            raise TypeError(
                f"MoE: argument x got dtype {rows.dtype}; needs {dtype} as its parameters have; "
                "cast x, move the module with .to(dtype), or use torch.autocast"
            )
        if self.activation == "swiglu":
            gate, up = _product(rows, self.gate_up_proj, offs).chunk(2, dim=-1)
            hidden = F.silu(gate) * up
        else:
            hidden = F.gelu(_product(rows, self.up_proj, offs))
        return _product(hidden, self.down_proj, offs)

    def extra_repr(self) -> str:
        return (
            f"{self.hidden_size}, {self.ffn_hidden_size}, num_experts={self.num_experts}, "
            f"activation={self.activation!r}"
        )
