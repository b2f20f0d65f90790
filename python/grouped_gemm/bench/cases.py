"""What a case is: a name and its numbers, pure data. All that there are: catalogue.py.

A case's name is ``op/shape/...``, for example ``fwd/qwen3-30b-up/random/bf16`` or
``unpermute/8192x8x4096x128/bf16`` (T x topK x h x E) or ``route/16384x8x128/fp32`` (T x topK x
E); `--case` takes shell patterns over names.
"""

from __future__ import annotations

from dataclasses import dataclass

GEMM_OPS = ("fwd", "dgrad", "wgrad", "train")
MOVE_OPS = ("map", "permute", "unpermute", "permute_bwd", "unpermute_bwd")
MOE_OPS = ("moe", "moe_train")
OPTION_OPS = ("permute_with", "unpermute_with", "sort_chunks")  # permute_options.py
ROUTE_OPS = ("route", "route_map", "route_bwd")
OPS = (*GEMM_OPS, *MOVE_OPS, *OPTION_OPS, "sinkhorn", *ROUTE_OPS, *MOE_OPS, "host")
LEVELS = ("quick", "default", "all")


@dataclass(frozen=True)
class Case:
    """One cell of the tables. Fields that an op does not have are 0 or empty."""

    name: str
    op: str
    dtype: str  # bf16, fp16, fp32, tf32 (fp32 tensors, reduced products), fp8 (e4m3)
    level: str  # the smallest selection that contains it: quick, default or all
    experts: int = 0  # E
    tokens: int = 0  # T: rows of a GEMM; tokens before they are copied topK times
    k: int = 0  # reduction of the forward product; hidden size h of a layer
    n: int = 0  # output features of the forward product; inner size f of a layer
    sizes: str = ""  # how rows fall into groups: sizes.DISTRIBUTIONS
    layout: str = "nk"  # weights [E, N, K] ("nk") or [E, K, N] ("kn")
    out: str = "same"  # wgrad and others into: "same" dtype, "fp32", or "acc" (fp32 +=)
    topk: int = 0
    hidden: int = 0  # h of a permutation
    probs: bool = False
    call: str = ""  # host cases: which call; permutations with an option: which
    seed: int = 0

    @property
    def block(self) -> str:
        """Cases of one block share operands and are measured interleaved with each other."""
        if self.op in GEMM_OPS:
            parts = (self.op, self.shape, self.dtype, self.layout, self.out)
            return "/".join(parts)
        return "host" if self.op == "host" else self.name

    @property
    def shape(self) -> str:
        """The second part of the name: a model's GEMM, or the numbers."""
        return self.name.split("/")[1]


def gemm_case(op, shape, numbers, sizes, dtype, level, layout="nk", out="same") -> Case:
    """``numbers``: (E, T, K, N) of the forward product."""
    experts, tokens, k, n = numbers
    suffix = ("/kn" if layout == "kn" else "") + ("" if out == "same" else f"/{out}")
    name = f"{op}/{shape}/{sizes}/{dtype}{suffix}"
    return Case(name, op, dtype, level, experts, tokens, k, n, sizes, layout, out)


def move_case(op, numbers, dtype, level, probs=False, call="") -> Case:
    """``numbers``: (T, topK, h, E). ``call``: an option of permute_options.py."""
    tokens, topk, hidden, experts = numbers
    shape = f"{tokens}x{topk}x{hidden}x{experts}"
    name = f"{op}/{shape}/{dtype}" + ("/probs" if probs else "") + (f"/{call}" if call else "")
    return Case(
        name, op, dtype, level, experts, tokens, topk=topk, hidden=hidden, probs=probs, call=call
    )
