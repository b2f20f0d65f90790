"""DeepGEMM's grouped bf16 GEMMs (Hopper and later), with groups padded to its alignment.

Forward and dgrad: ``m_grouped_bf16_gemm_nt_contiguous`` / ``_nn_contiguous``; wgrad:
``k_grouped_bf16_gemm_tn_contiguous``, which adds into float32. Operands are padded with zero rows
in build, for free; the check reads the valid rows of the padded result.
API read in DeepGEMM 2.1 to 2.6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

bench = globals()["bench"]  # the instrument, put here by whoever loads this file


class DeepGemm:
    name = "dg"

    def available(self, device) -> str | None:
        if device.type != "cuda":
            return "needs a CUDA device"
        try:
            import deep_gemm
        except (ImportError, OSError, RuntimeError, AssertionError) as error:
            return f"not importable: {error}"
        wanted = ("m_grouped_bf16_gemm_nt_contiguous", "k_grouped_bf16_gemm_tn_contiguous")
        missing = [name for name in wanted if not hasattr(deep_gemm, name)]
        return f"this version has no {missing[0]}" if missing else None

    def supports(self, case) -> str | None:
        if case.op not in ("fwd", "dgrad", "wgrad"):
            return "grouped GEMM only, one pass at a time"
        if case.dtype != "bf16":
            return "no such grouped GEMM but bf16 and scaled fp8"
        if case.op != "wgrad" and case.out != "same":
            return "bf16 results only"
        return None

    def remark(self, case) -> str:
        if case.op != "wgrad":
            return "rows padded beforehand; the result keeps the padding"
        if case.out == "acc":
            return "rows padded beforehand"
        return "rows padded beforehand; float32 result, zeroed in the call"

    def build(self, case, g) -> Callable[[], object]:
        import deep_gemm

        padding = _padding(deep_gemm, g)
        if case.op == "wgrad":
            return _wgrad(deep_gemm, case, g, padding)
        return _m_grouped(deep_gemm, case, g, padding)

    def answer(self, case, g, result):
        import deep_gemm

        return result if case.op == "wgrad" else _padding(deep_gemm, g).gathered(result)


def _padding(deep_gemm, g):
    return Padding(g.rows, deep_gemm.get_m_alignment_for_contiguous_layout(), g.x.device)


class Padding:
    """Where each row goes when every group is filled up to a multiple of ``alignment`` rows."""

    def __init__(self, rows: list[int], alignment: int, device: torch.device) -> None:
        self.rows = [-(-count // alignment) * alignment for count in rows]  # padded, [E]
        self.expert = torch.full((sum(self.rows),), -1, dtype=torch.int32, device=device)
        places, start = [], 0
        for e, (count, padded) in enumerate(zip(rows, self.rows, strict=True)):
            self.expert[start : start + count] = e  # -1 stays where padding is
            places.append(torch.arange(start, start + count))
            start += padded
        self.place = torch.cat(places).to(device)  # int64 [T]
        self.is_dense = self.place.numel() == start

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """[T, width] -> [padded T, width], zeros between."""
        if self.is_dense:
            return rows
        out = rows.new_zeros(self.expert.numel(), rows.shape[1])
        out[self.place] = rows
        return out

    def gathered(self, rows: torch.Tensor) -> torch.Tensor:
        """[padded T, width] -> [T, width]."""
        return rows if self.is_dense else rows.index_select(0, self.place)


def _m_grouped(dg, case, g, padding: Padding) -> Callable:
    """nt: weights [E, out, in]; nn: weights [E, in, out], in and out as the pass sees them."""
    left = padding.spread(g.x if case.op == "fwd" else g.dy)
    is_nt = g.trans_b == (case.op == "fwd")
    kernel = dg.m_grouped_bf16_gemm_nt_contiguous if is_nt else dg.m_grouped_bf16_gemm_nn_contiguous
    width = g.w.shape[1 if is_nt else 2]

    def product():
        out = left.new_empty(left.shape[0], width)
        kernel(left, g.w, out, padding.expert)
        return out

    return product


def _wgrad(dg, case, g, padding: Padding) -> Callable:
    first, second = (g.dy, g.x) if g.trans_b else (g.x, g.dy)
    first, second = padding.spread(first), padding.spread(second)
    on_device = torch.tensor(padding.rows, dtype=torch.int32, device=g.x.device)

    def wgrad():
        out = g.accumulator
        if case.out != "acc":
            out = torch.zeros(g.w.shape, device=g.x.device)
        dg.k_grouped_bf16_gemm_tn_contiguous(first, second, out, padding.rows, on_device, out)
        return out

    return wgrad


PEERS = [DeepGemm()]
