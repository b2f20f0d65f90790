"""``grouped_mm`` with torch.nn.functional.grouped_mm's signature and semantics.

Its users change one import. What torch refuses is refused here too, in our words;
what torch asks of alignment is not asked.
"""

from __future__ import annotations

import torch

from ._errors import speaks_for_itself
from ._functional import gmm, gmm_wgrad
from ._local import local


@speaks_for_itself(a="mat_a", b="mat_b", dy="mat_b")
def grouped_mm(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    *,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Grouped matrix product over ragged groups given by cumulative ends.

    Args:
        mat_a, mat_b: one of

            - [T, K] and [E, K, N]: rows of group e times ``mat_b[e]`` -> [T, N]
            - [M, T] and [T, N]: a product for each group of the reduction -> [E, M, N]
            - [E, M, K] and [K, T]: ``mat_a[e]`` times the columns of group e -> [M, T]
            - [E, M, K] and [E, K, N]: a batched product, without offs -> [E, M, N]

        offs: [E] int32 cumulative ends on the operands' device; required unless both
            operands are 3-D.
        bias: not supported, as in torch.
        out_dtype: the operands' dtype, as in torch.

    Returns:
        As listed, differentiable in both operands. Autocast changes nothing here, as in torch;
        under it :func:`gmm` casts.

    Raises:
        ValueError: a combination that torch refuses.
    """
    mat_a, mat_b = local(mat_a), local(mat_b)
    device_type = mat_a.device.type
    if device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):  # torch's own casts nothing
            return grouped_mm(mat_a, mat_b, offs=offs, bias=bias, out_dtype=out_dtype)
    dims = (mat_a.dim(), mat_b.dim())
    if dims not in ((2, 3), (2, 2), (3, 2), (3, 3)):
        raise ValueError(
            f"grouped_mm: mat_a and mat_b got {dims[0]} and {dims[1]} dimensions; each needs 2 or 3"
        )
    if mat_a.dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        raise ValueError(
            f"grouped_mm: mat_a got dtype {mat_a.dtype}; needs bfloat16, float16 or float32"
        )
    if bias is not None:
        raise ValueError("grouped_mm: bias got a tensor; needs None; add it to the result")
    if mat_a.dtype != mat_b.dtype:
        raise ValueError(f"grouped_mm: mat_b got dtype {mat_b.dtype}; needs mat_a's, {mat_a.dtype}")
    if mat_b.device != mat_a.device:
        raise ValueError(
            f"grouped_mm: mat_b got a tensor on {mat_b.device}; needs mat_a's device, "
            f"{mat_a.device}; move it"
        )
    if out_dtype is not None and out_dtype != mat_a.dtype:
        raise ValueError(
            f"grouped_mm: out_dtype got {out_dtype}; needs mat_a's dtype, {mat_a.dtype}; "
            "grouped_gemm.gmm takes float32 too"
        )
    if (offs is None) != (dims == (3, 3)):
        got = "None" if offs is None else "a tensor"
        needs = "None for two 3-D operands" if dims == (3, 3) else "cumulative ends of the groups"
        raise ValueError(f"grouped_mm: offs got {got}; needs {needs}")
    if offs is not None and (offs.dtype != torch.int32 or offs.dim() != 1):
        raise ValueError(
            f"grouped_mm: offs got dtype {offs.dtype} and {offs.dim()} dimensions; needs "
            "torch.int32 and 1 dimension"
        )
    num_matrices = [mat.shape[0] for mat in (mat_a, mat_b) if mat.dim() == 3]
    if offs is not None and num_matrices and offs.shape[0] != num_matrices[0]:
        raise ValueError(
            f"grouped_mm: offs got {offs.shape[0]} ends; needs one for each of "
            f"{num_matrices[0]} matrices"
        )
    inner = (mat_a.shape[-1], mat_b.shape[-2])
    if inner[0] != inner[1]:
        raise ValueError(
            f"grouped_mm: mat_b got a reduction dimension of {inner[1]}; needs mat_a's, {inner[0]}"
        )

    if dims == (3, 3):
        if mat_a.shape[0] != mat_b.shape[0]:
            raise ValueError(
                f"grouped_mm: mat_b got {mat_b.shape[0]} matrices; needs mat_a's number, "
                f"{mat_a.shape[0]}"
            )
        return torch.bmm(mat_a, mat_b)
    if dims == (2, 3):
        return gmm(mat_a, mat_b, offs=offs)
    if dims == (3, 2):
        return gmm(mat_b.transpose(0, 1), mat_a, trans_b=True, offs=offs).transpose(0, 1)
    return gmm_wgrad(mat_a.transpose(0, 1), mat_b, offs=offs)
