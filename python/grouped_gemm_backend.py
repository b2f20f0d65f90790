"""The old extension module's name: ``grouped_gemm.backend`` with ``gmm``'s old argument order."""

from __future__ import annotations

import torch
from grouped_gemm import backend
from grouped_gemm.backend import permute, sinkhorn, unpermute, unpermute_bwd

__all__ = ["gmm", "permute", "sinkhorn", "unpermute", "unpermute_bwd"]


def gmm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    batch_sizes: torch.Tensor,
    trans_a: bool,
    trans_b: bool,
) -> torch.Tensor:
    """Writes the grouped product into ``c`` and returns it; see ``grouped_gemm.backend.gmm``."""
    return backend.gmm(a, b, batch_sizes, trans_a, trans_b, c)
