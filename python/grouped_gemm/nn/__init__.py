"""`grouped_gemm.nn`: the Mixture-of-Experts layer as a PyTorch module.

`MoE` is the layer; `Router` and `Experts` are its halves, for layers that put something between
them; `fuse_experts` and `split_experts` convert checkpoints from and to one weight per expert.
Start reading in moe.py.
"""

from .checkpoint import fuse_experts, split_experts
from .experts import Experts
from .moe import MoE, MoEStats
from .router import Router, Routing, load_balancing_loss

__all__ = [
    "Experts",
    "MoE",
    "MoEStats",
    "Router",
    "Routing",
    "fuse_experts",
    "load_balancing_loss",
    "split_experts",
]
