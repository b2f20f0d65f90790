"""The native functions: grouped GEMM in all its forms, sinkhorn.

Permutation is in ``_permutation``, routing in ``_routing``.

Shapes use the field's letters: T tokens (rows), K reduction, N output features,
E experts (groups), h hidden size. Wrong shapes, dtypes or devices raise
RuntimeError (ValueError or TypeError where Python can tell) that names the
operator, the argument, what it got and what it needs; nothing is written then.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from ._autograd import GroupedGemm, GroupedGemmWgrad
from ._errors import speaks_for_itself
from ._local import local
from ._precision import allows_tf32

raw = torch.ops.grouped_gemm


def _sizes(
    op: str, batch_sizes: torch.Tensor | None, offs: torch.Tensor | None
) -> tuple[torch.Tensor, bool]:
    """(sizes, cumulative) of exactly one of the two arguments."""
    if (batch_sizes is None) == (offs is None):
        got = "neither" if offs is None else "both"
        raise ValueError(f"{op}: batch_sizes and offs got {got}; needs exactly one of the two")
    sizes = batch_sizes if offs is None else offs
    if not isinstance(sizes, torch.Tensor):
        name = "batch_sizes" if offs is None else "offs"
        raise TypeError(
            f"{op}: {name} got {type(sizes).__name__}; needs a 1-D int32 or int64 tensor, on the "
            "CPU or on the operands' device"
        )
    return local(sizes), offs is not None


def _operand(tensor: torch.Tensor) -> torch.Tensor:
    """A plain tensor, cast as autocast asks."""
    tensor = local(tensor)
    device_type = tensor.device.type
    if device_type not in ("cpu", "cuda"):
        return tensor  # without autocast
    if torch.is_autocast_enabled(device_type) and tensor.dtype is not torch.float64:
        tensor = tensor.to(torch.get_autocast_dtype(device_type))
    return tensor


def _needs_grad(*tensors: torch.Tensor | None) -> bool:
    """Whether to go through an autograd Function; they refuse forward-mode derivatives."""
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _refuse_grad(op: str, *tensors: torch.Tensor) -> None:
    if _needs_grad(*tensors):
        raise RuntimeError(
            f"{op}: out got operands that require grad; needs operands without, since a result "
            "written into out has no gradient; call it under torch.no_grad() or leave out= away"
        )


def _writable(op: str, name: str, out: torch.Tensor) -> torch.Tensor:
    """What an operator writes to: this rank's part of out, in plain memory."""
    out = local(out)
    # PyTorch 2.11 and older abort on such a view of an operator's output.
    if not torch.compiler.is_compiling() and out.is_neg():
        raise ValueError(
            f"{op}: {name} got a view whose sign PyTorch keeps as a flag (is_neg()); needs memory "
            "that holds its values; write into another tensor and copy it over"
        )
    return out


def _was_written(out: torch.Tensor) -> torch.Tensor:
    """Tells autograd that out changed, as PyTorch's own out= functions do."""
    if not torch.compiler.is_compiling() and not out.is_inference():
        torch.autograd.graph.increment_version(out)
    return out


@speaks_for_itself()
def gmm(
    a: torch.Tensor,
    b: torch.Tensor,
    batch_sizes: torch.Tensor | None = None,
    trans_b: bool = False,
    *,
    offs: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Grouped matrix product: rows of group e of ``a`` times ``b[e]``.

    Args:
        a: [T, K] bf16, fp16 or fp32 (fp64 on the CPU), any strides. Groups are
            consecutive row ranges.
        b: [E, K, N], or [E, N, K] with ``trans_b``; a's dtype, any strides.
        batch_sizes: [E] int32 or int64 row counts, on the CPU or on a's device.
            On the device they are never copied to the host and nothing waits.
        trans_b: whether ``b[e]`` is stored transposed.
        offs: instead of batch_sizes, cumulative ends [E] without the leading 0, as
            :func:`torch.nn.functional.grouped_mm` takes them.
        out: [T, N] buffer for the result, a's dtype or float32; refused while an
            operand requires grad.
        out_dtype: dtype of the result, a's (default) or float32.

    Returns:
        [T, N], differentiable in ``a`` and ``b``. Accumulated in fp32; fp32 operands on
        a GPU are rounded to tf32 where PyTorch's own switch allows it
        (:func:`torch.set_float32_matmul_precision`), here and in the gradients. Empty
        groups contribute no rows; rows past the last group are zeros, with zero gradients.

    Raises:
        ValueError: both or neither of ``batch_sizes`` and ``offs``.
        RuntimeError: wrong shapes, dtypes or devices; sizes on the CPU that are
            negative or sum to more than T. (On the device such sizes are clamped.)
    """
    sizes, cumulative = _sizes("gmm", batch_sizes, offs)
    a = _operand(a)
    b = _operand(b)
    if out is not None:
        _refuse_grad("gmm", a, b, out)
        if out_dtype is not None and out_dtype != out.dtype:
            raise ValueError(f"gmm: out_dtype got {out_dtype}; needs out's dtype, {out.dtype}")
        target = _writable("gmm", "out", out)
        raw._gmm_out(a, b, sizes, cumulative, trans_b, target, allows_tf32(a))
        return _was_written(out)
    if _needs_grad(a, b):
        return GroupedGemm.apply(a, b, sizes, trans_b, cumulative, out_dtype)
    return raw._gmm(a, b, sizes, cumulative, trans_b, out_dtype, allows_tf32(a))


@speaks_for_itself(a="dy")
def gmm_dgrad(
    dy: torch.Tensor,
    b: torch.Tensor,
    batch_sizes: torch.Tensor | None = None,
    trans_b: bool = False,
    *,
    offs: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Gradient of :func:`gmm` with respect to ``a``: ``dy`` times ``b[e]`` transposed.

    Args:
        dy: [T, N] gradient of gmm's result.
        b, batch_sizes, trans_b, offs: as they were given to gmm.
        out, out_dtype: as in gmm, of shape [T, K].

    Returns:
        [T, K]. Reads ``b`` as it lies; nothing is transposed in memory.
    """
    return gmm(dy, b, batch_sizes, not trans_b, offs=offs, out=out, out_dtype=out_dtype)


@speaks_for_itself()
def gmm_wgrad(
    a: torch.Tensor,
    dy: torch.Tensor,
    batch_sizes: torch.Tensor | None = None,
    trans_b: bool = False,
    *,
    offs: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    accumulate: bool = False,
) -> torch.Tensor:
    """Gradient of :func:`gmm` with respect to ``b``: per group, ``a`` transposed times ``dy``.

    Args:
        a: [T, K] as given to gmm.
        dy: [T, N] gradient of gmm's result, a's dtype.
        batch_sizes, trans_b, offs: as they were given to gmm.
        out: [E, K, N] ([E, N, K] with ``trans_b``) buffer, a's dtype or float32, such
            as Megatron's ``weight.main_grad``.
        out_dtype: dtype of the result without ``out``: a's (default) or float32.
        accumulate: add to ``out`` instead of overwriting it.

    Returns:
        [E, K, N], or [E, N, K] with ``trans_b``. Empty groups give zeros, or leave
        their part of ``out`` unchanged when accumulating.
    """
    sizes, cumulative = _sizes("gmm_wgrad", batch_sizes, offs)
    a = _operand(a)
    dy = _operand(dy)
    if out is None:
        if accumulate:
            raise ValueError("gmm_wgrad: accumulate got True; needs out=, the buffer to add to")
        if _needs_grad(a, dy):
            if trans_b:
                return GroupedGemmWgrad.apply(dy, a, sizes, cumulative, out_dtype)
            return GroupedGemmWgrad.apply(a, dy, sizes, cumulative, out_dtype)
        return raw._gmm_wgrad(a, dy, sizes, cumulative, trans_b, out_dtype, allows_tf32(a))
    _refuse_grad("gmm_wgrad", a, dy, out)
    if out_dtype is not None and out_dtype != out.dtype:
        raise ValueError(f"gmm_wgrad: out_dtype got {out_dtype}; needs out's dtype, {out.dtype}")
    target = _writable("gmm_wgrad", "out", out)
    raw._gmm_wgrad_out(a, dy, sizes, cumulative, trans_b, target, accumulate, allows_tf32(a))
    return _was_written(out)


class SinkhornInfo(NamedTuple):
    """How :func:`sinkhorn` ended, on the device."""

    iterations: torch.Tensor  # [] int32
    error: torch.Tensor  # [] float32: the last mean |change of d1|


DEFAULT_MAX_ITERATIONS = 100


@speaks_for_itself()
def sinkhorn(
    cost: torch.Tensor,
    tol: float = 1e-4,
    *,
    max_iterations: int = DEFAULT_MAX_ITERATIONS,
    return_info: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, SinkhornInfo]:
    """Balances router logits: scales rows and columns of exp(cost) to 1/T and 1/E.

    Args:
        cost: [T, E] fp32, bf16 or fp16 logits (fp64 on the CPU); not changed.
        tol: stop once the mean change of the column factors is at most this; <= 0
            runs to ``max_iterations``.
        max_iterations: the cap (default 100): with skewed logits the formula may never
            reach ``tol``.
        return_info: also return :class:`SinkhornInfo`.

    Returns:
        [T, E] of cost's dtype, without gradient: d1 * exp(cost) * d0 with
        d0 = 1 / (T (C d1 + eps)), d1 = 1 / (E (C^T d0 + eps)), eps = 1e-8 (Sinkhorn and
        Knopp 1967, as Megatron-LM's router uses it), computed with row maxima
        subtracted, so that no finite logit overflows.
    """
    cost = local(cost).detach()
    balanced, iterations, error = raw._sinkhorn(cost, float(tol), max_iterations)
    if return_info:
        return balanced, SinkhornInfo(iterations[0], error[0])
    return balanced
