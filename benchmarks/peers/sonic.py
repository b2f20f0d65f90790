"""SonicMoE's whole layer, and the variable-length GEMM of quack below it (Hopper and later).

``quack``: ``quack.gemm_interface.gemm`` with cu_seqlens_m (forward, dgrad) or cu_seqlens_k (wgrad),
tuned by its own tuner, as by default. API read in quack 0.2.2 and 0.6.4.
``sonicmoe``: ``moe_TC_softmax_topk_layer`` of SonicMoE 0.0.1: router, top-k, sort, GEMMs with
gather and SwiGLU fused, combine. Its rows of gate and up alternate, and its router's probabilities
sum to 1 over the chosen experts, where ours do not: weights are interleaved in build, and the check
reads y times the chosen experts' share. Both compile at the first call: seconds to minutes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

bench = globals()["bench"]  # the instrument, put here by whoever loads this file
GEMM_OPS, MOE_OPS = bench.cases.GEMM_OPS, bench.cases.MOE_OPS


class Quack:
    name = "quack"

    def available(self, device) -> str | None:
        if device.type != "cuda":
            return "needs a CUDA device"
        try:
            importlib.import_module("quack.gemm_interface")
        except (ImportError, OSError, RuntimeError, AssertionError, AttributeError) as error:
            return f"not importable: {error}"
        return None

    def supports(self, case) -> str | None:
        if case.op not in ("fwd", "dgrad", "wgrad"):
            return "grouped GEMM only, one pass at a time"
        if case.dtype not in ("bf16", "fp16"):
            return "bf16 and fp16 only"
        return "not asked to accumulate here" if case.out == "acc" else None

    def build(self, case, g) -> Callable[[], object]:
        return _quack_call(case, g)


def _quack_call(case, g) -> Callable:
    """Starts of the groups are int32 [E + 1]; results [T, N], [T, K] or w's shape."""
    gemm = importlib.import_module("quack.gemm_interface").gemm
    starts = torch.nn.functional.pad(g.offs, (1, 0))
    options = {"out_dtype": torch.float32} if case.out == "fp32" else {}
    if case.op == "wgrad":
        first, second = (g.dy, g.x) if g.trans_b else (g.x, g.dy)
        return lambda: gemm(first.T, second, cu_seqlens_k=starts, **options)
    left = g.x if case.op == "fwd" else g.dy
    matrices = g.w_kn if case.op == "fwd" else g.w_kn.transpose(1, 2)
    return lambda: gemm(left, matrices, cu_seqlens_m=starts, **options)


class SonicMoE:
    name = "sonicmoe"
    graph = False  # never tried

    def available(self, device) -> str | None:
        if device.type != "cuda":
            return "needs a CUDA device"
        try:
            from sonicmoe import moe_TC_softmax_topk_layer  # noqa: F401
        except (ImportError, OSError, RuntimeError, AssertionError, AttributeError) as error:
            return f"not importable: {error}"
        return None

    def supports(self, case) -> str | None:
        if case.op not in MOE_OPS:
            return "whole layers only"
        if case.dtype not in ("bf16", "fp16"):
            return "bf16 and fp16 only"
        if case.k % 64 or case.k < 512 or case.n % 64 or case.experts % 4:
            return "needs h a multiple of 64 from 512 on, f of 64, E of 4"
        return None

    def remark(self, case) -> str:
        return "its router renormalises the probabilities; weight gradients interleaved"

    def build(self, case, layer) -> Callable[[], object]:
        return _sonic_call(case, layer)

    def answer(self, case, layer, result):
        y, *gradients = result if isinstance(result, tuple) else (result,)
        return y * _chosen_share(layer), *gradients


def _sonic_call(case, layer) -> Callable:
    from sonicmoe import moe_TC_softmax_topk_layer
    from sonicmoe.enums import ActivationType

    experts, twice_f, h = layer.gate_up.shape
    halves = layer.gate_up.view(experts, 2, twice_f // 2, h)
    gate_up = halves.transpose(1, 2).reshape(experts, twice_f, h).requires_grad_()
    down = layer.down.detach().requires_grad_()
    is_inference = case.op == "moe"

    def moe(x):
        y, _, _ = moe_TC_softmax_topk_layer(
            x,
            layer.gate,
            gate_up.permute(1, 2, 0),
            None,
            down.permute(1, 2, 0),
            None,
            case.topk,
            _stream_of(x),
            ActivationType.SWIGLU,
            is_inference,
        )
        return y

    ours = importlib.import_module(f"{bench.__name__}.peers.ours")
    return ours.layer_call(moe, case, layer, (gate_up, down))


def _chosen_share(layer, rows: int = 1 << 14) -> torch.Tensor:
    """[T, 1]: the softmax's sum over the topK chosen experts."""
    pieces = [(x.float() @ layer.gate.float().T).softmax(-1) for x in layer.x.split(rows)]
    return torch.cat(pieces).topk(layer.topk).values.sum(-1, keepdim=True).to(layer.x.dtype)


def _stream_of(x: torch.Tensor) -> int:
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


PEERS = [Quack(), SonicMoE()]
