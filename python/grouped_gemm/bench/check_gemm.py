"""The check of a grouped product's result: cheap, and hard to pass with a wrong one.

Every row against a random projection (Freivalds' check: out v must be x (w v), v of random
signs), and samples of four groups element by element against float32 (float64 for float32).
Bounds are the rounding of the result and sqrt(K) of the sums'. Called by ``checks.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cases import Case
from .operands import Gemm

# The most that rounding to nearest changes a value, as a share of it.
ROUNDING = {
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
    torch.float32: 2.0**-24,
    torch.float8_e4m3fn: 2.0**-4,
}
TF32_ROUNDING = 2.0**-11  # of each operand
SAMPLED_ROWS = 96  # from each end of a sampled group
PROJECTION_SIGMAS = 8.0


def _bounds(rows: list[int]) -> list[tuple[int, int]]:
    ends = torch.tensor([0, *rows]).cumsum(0).tolist()
    return list(zip(ends[:-1], ends[1:], strict=True))


def _sampled_groups(rows: list[int]) -> list[int]:
    """The largest, the smallest that has rows, the first and the last such."""
    busy = [e for e, count in enumerate(rows) if count]
    if not busy:
        return []
    return sorted(
        {max(busy, key=lambda e: rows[e]), min(busy, key=lambda e: rows[e]), busy[0], busy[-1]}
    )


def _ends_of(start: int, end: int) -> list[slice]:
    if end - start <= 2 * SAMPLED_ROWS:
        return [slice(start, end)]
    return [slice(start, start + SAMPLED_ROWS), slice(end - SAMPLED_ROWS, end)]


def gemm_complaint(op: str, case: Case, gemm: Gemm, out: Tensor) -> str | None:
    """``op``: fwd, dgrad or wgrad; ``out`` its result."""
    wide = torch.float64 if gemm.x.dtype == torch.float32 else torch.float32
    error = _OutputError(case, out.dtype, wide)
    bounds = _bounds(gemm.rows)
    if op == "wgrad":
        if out.shape != gemm.w.shape:
            return f"got shape {list(out.shape)}; needs {list(gemm.w.shape)}"
        return _wgrad_complaint(gemm, out, bounds, error, 1.0 if case.out == "acc" else 0.0)
    left = gemm.x if op == "fwd" else gemm.dy
    matrices = gemm.w_kn if op == "fwd" else gemm.w_kn.transpose(1, 2)  # [E, R, F]
    if out.shape != (left.shape[0], matrices.shape[2]):
        return f"got shape {list(out.shape)}; needs {[left.shape[0], matrices.shape[2]]}"
    for e in _sampled_groups(gemm.rows):
        for piece in _ends_of(*bounds[e]):
            want = left[piece].to(wide) @ matrices[e].to(wide)
            wrong = error.elementwise(out[piece], want, left.shape[1], f"group {e}")
            if wrong:
                return wrong
    signs = error.signs(out)
    for e, (start, end) in enumerate(bounds):
        if start < end:
            rows = out[start:end].to(wide)
            want = left[start:end].to(wide) @ (matrices[e].to(wide) @ signs)
            wrong = error.projected(rows, rows @ signs, want, f"group {e}")
            if wrong:
                return wrong
    return None


def _wgrad_complaint(gemm: Gemm, out: Tensor, bounds, error, initial: float) -> str | None:
    first, second = (gemm.dy, gemm.x) if gemm.trans_b else (gemm.x, gemm.dy)
    for e in _sampled_groups(gemm.rows):
        start, end = bounds[e]
        right = second[start:end].to(error.wide)
        for piece in _ends_of(0, first.shape[1]):
            want = first[start:end, piece].to(error.wide).T @ right + initial
            wrong = error.elementwise(out[e, piece], want, end - start, f"group {e}")
            if wrong:
                return wrong
    signs = error.signs(out)
    for e, (start, end) in enumerate(bounds):
        matrix = out[e].to(error.wide)
        projected = second[start:end].to(error.wide) @ signs
        want = first[start:end].to(error.wide).T @ projected + initial * signs.sum()
        wrong = error.projected(matrix, matrix @ signs, want, f"group {e}")
        if wrong:
            return wrong
    return None


class _OutputError:
    """How far a result may be from the reference: its rounding, and sqrt(K) of the sums'."""

    def __init__(self, case: Case, out_dtype: torch.dtype, wide: torch.dtype) -> None:
        self.wide = wide
        self.rounding = ROUNDING[out_dtype]
        self.sum_rounding = TF32_ROUNDING if case.dtype == "tf32" else 2.0**-18

    def signs(self, out: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randint(2, (out.shape[-1],), generator=generator)
        return (2 * drawn - 1).to(out.device, self.wide)

    def _sums(self, typical: Tensor, depth: int) -> Tensor:
        """tf32 rounds operands, whose errors shrink like the sum itself; others round sums."""
        factor = 6.0 if self.sum_rounding == TF32_ROUNDING else math.sqrt(max(depth, 1))
        return typical * self.sum_rounding * factor

    def elementwise(self, got: Tensor, want: Tensor, depth: int, where: str) -> str | None:
        typical = want.square().mean().sqrt()
        allowed = 1.05 * self.rounding * want.abs() + self._sums(typical, depth) + 1e-30
        excess = (got.to(self.wide) - want).abs() / allowed
        worst = float(excess.max()) if excess.numel() else 0.0
        if worst <= 1:
            return None
        return f"{where}: an element is off by {worst:.3g} times what rounding explains"

    def projected(self, rows, got, want, where: str) -> str | None:
        length = rows.norm(dim=1)
        noise = (self.rounding / 2 + 2 * self.sum_rounding) * length
        allowed = PROJECTION_SIGMAS * noise + 1e-30
        worst = float(((got - want).abs() / allowed).max())
        if worst <= 1:
            return None
        return f"{where}: a row's random projection is off by {worst:.3g} times its noise"
