"""What is measured: named cases, pure data, in one place.

A case's name is ``op/shape/...``, for example ``fwd/qwen3-30b-up/random/bf16`` or
``unpermute/8192x8x4096x128/bf16`` (T x topK x h x E) or ``route/16384x8x128/fp32`` (T x topK x
E); `--case` takes shell patterns over names. ``select`` is what the command line calls.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
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


# (E, M, h, f): experts, rows of all experts, hidden and inner size of published models, with
# the tokens that a training step brings. up: K=h, N=2f (gate and up); down: K=f, N=h.
MODELS = {
    "mixtral8x7b": (8, 16384, 4096, 14336),
    "dsv3-ep8": (32, 32768, 7168, 2048),
    "qwen3-30b": (128, 65536, 2048, 768),
    "qwen3-235b": (128, 65536, 4096, 1536),
    "olmoe": (64, 65536, 2048, 1024),
    "gptoss120b": (128, 32768, 2880, 2880),
    "small-m": (64, 2048, 4096, 1536),
}
LARGE_MODELS = tuple(name for name in MODELS if name != "small-m")
CPU_MODELS = {"laptop": (8, 4096, 512, 256), "laptop-fine": (64, 4096, 256, 128)}
ONE_ROW = {"1row-64": (64, 64, 4096, 3072), "1row-256": (256, 256, 4096, 3072)}  # E, T, K, N

# (T, topK, h, E)
MOVES = (
    (32768, 8, 4096, 128),
    (65536, 8, 2048, 128),
    (8192, 8, 7168, 256),
    (16384, 8, 2048, 128),
    (16384, 2, 4096, 8),
    (8192, 2, 4096, 8),
    (8192, 8, 2048, 128),
)
MORE_MOVES = ((4096, 2, 1, 8), (4096, 2, 129, 8), (4096, 2, 7168, 64), (65536, 8, 512, 128))
DECODE_MOVES = ((1, 8, 2048, 128), (64, 8, 2048, 128), (512, 8, 2048, 128))
ODD_FP8_MOVES = ((16384, 8, 1025, 128), (8192, 8, 7167, 256), (8192, 8, 7168, 256))
MAPS = ((8192, 8, 128), (131072, 8, 128), (65536, 8, 256))  # T, topK, E
MORE_MAPS = ((4096, 2, 8), (16384, 2, 8), (65536, 8, 128), (64, 8, 128), (1, 8, 128))
CPU_MOVES = ((4096, 2, 512, 8), (2048, 8, 256, 64))

SINKHORN = ((4096, 8), (8192, 16), (8192, 64), (16384, 64), (32768, 128), (131072, 256))  # T, E
# (T, h, f, E, topK) of a whole layer
LAYERS = {
    "qwen3-30b": (8192, 2048, 768, 128, 8),
    "mixtral8x7b": (8192, 4096, 14336, 8, 2),
    "fine-grained": (24576, 1536, 256, 128, 8),
}
CPU_LAYERS = {"laptop": (1024, 256, 256, 16, 2)}
HOST_CALLS = (
    "gmm sizes on the device",
    "gmm offs",
    "gmm sizes on the host",
    "gmm autograd",
    "gmm_wgrad",
    "permute",
    "permute autograd",
    "unpermute",
    "moe_permute",
    "moe_unpermute",
    "MoE forward",
)


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


def projections(models: dict) -> dict[str, tuple[int, int, int, int]]:
    """The two GEMMs of each model: name -> (E, T, K, N)."""
    table = {}
    for name, (experts, rows, hidden, inner) in models.items():
        table[f"{name}-up"] = (experts, rows, hidden, 2 * inner)
        table[f"{name}-down"] = (experts, rows, inner, hidden)
    return table


def gemm_cases(models: dict) -> Iterable[Case]:
    """bf16 in three distributions by default, three shapes in the quick run, the rest in all."""
    quick = {"qwen3-30b-up", "qwen3-30b-down", "mixtral8x7b-down"}
    for shape, numbers in projections(models).items():
        for op in ("fwd", "dgrad", "wgrad"):
            level = "quick" if shape in quick else "default"
            yield gemm_case(op, shape, numbers, "balanced", "bf16", "default")
            yield gemm_case(op, shape, numbers, "random", "bf16", level)
            yield gemm_case(op, shape, numbers, "skewed", "bf16", "default")
            for sizes in ("one-hot", "alternate"):
                yield gemm_case(op, shape, numbers, sizes, "bf16", "all")
            for sizes in ("balanced", "random", "skewed"):
                yield gemm_case(op, shape, numbers, sizes, "bf16", "all", layout="kn")
                yield gemm_case(op, shape, numbers, sizes, "bf16", "all", out="fp32")
            for sizes in ("balanced", "random"):
                yield gemm_case(op, shape, numbers, sizes, "fp16", "all")
            for dtype in ("tf32", "fp32"):
                yield gemm_case(op, shape, numbers, "random", dtype, "all")
        for sizes in ("balanced", "random", "skewed"):
            yield gemm_case("wgrad", shape, numbers, sizes, "bf16", "all", out="acc")
        yield gemm_case("wgrad", shape, numbers, "random", "fp16", "all", out="acc")
        yield gemm_case("train", shape, numbers, "random", "bf16", "all")  # with autograd
    for shape, numbers in ONE_ROW.items():
        for op in ("fwd", "dgrad", "wgrad"):
            for layout in ("nk", "kn"):
                yield gemm_case(op, shape, numbers, "balanced", "bf16", "all", layout=layout)


def move_cases() -> Iterable[Case]:
    for numbers in MOVES:
        level = "quick" if numbers == (16384, 8, 2048, 128) else "default"
        yield from movements(numbers, "bf16", level)
        for dtype in ("fp32", "fp8"):
            yield from movements(numbers, dtype, "all")
    for level, shapes in (("default", MAPS), ("all", MORE_MAPS)):
        for tokens, topk, experts in shapes:
            yield move_case("map", (tokens, topk, 0, experts), "bf16", level)
    for numbers in (*MORE_MOVES, *DECODE_MOVES):
        yield from movements(numbers, "bf16", "all")
    for numbers in ODD_FP8_MOVES[:2]:
        yield from movements(numbers, "fp8", "all")


def movements(numbers, dtype: str, level: str) -> Iterable[Case]:
    """The four passes of one shape; without probs in the full run too."""
    yield move_case("permute", numbers, dtype, level)
    yield move_case("permute_bwd", numbers, dtype, level)
    for op in ("unpermute", "unpermute_bwd"):
        yield move_case(op, numbers, dtype, level, probs=True)
        yield move_case(op, numbers, dtype, "all", probs=False)


def sinkhorn_cases(sinkhorn: Iterable) -> Iterable[Case]:
    """Sinkhorn; top-k routing is in routing.py."""
    for tokens, experts in sinkhorn:
        level = "default" if (tokens, experts) == (8192, 64) else "all"
        yield Case(f"sinkhorn/{tokens}x{experts}/fp32", "sinkhorn", "fp32", level, experts, tokens)


def layer_cases(layers: dict, dtype: str) -> Iterable[Case]:
    """Whole layers, forward and forward with backward; their peak memory is the point too."""
    for name, (tokens, hidden, inner, experts, topk) in layers.items():
        for op in MOE_OPS:
            level = "default" if name in ("qwen3-30b", "laptop") else "all"
            yield Case(
                f"{op}/{name}/{dtype}", op, dtype, level, experts, tokens, hidden, inner, topk=topk
            )


def host_cases(dtype: str) -> Iterable[Case]:
    """What a call costs the host, at shapes so small that the device keeps up."""
    for call in HOST_CALLS:
        name = f"host/{call.replace(' ', '-')}/{dtype}"
        yield Case(name, "host", dtype, "quick", 4, 64, 64, 64, topk=2, hidden=64, call=call)


def cpu_cases() -> Iterable[Case]:
    for shape, numbers in projections(CPU_MODELS).items():
        for op in GEMM_OPS:
            for sizes in ("balanced", "random", "skewed"):
                quick = shape == "laptop-up" and sizes == "random"
                yield gemm_case(op, shape, numbers, sizes, "fp32", "quick" if quick else "default")
            yield gemm_case(op, shape, numbers, "random", "bf16", "all")
    for numbers in CPU_MOVES:
        yield from movements(numbers, "fp32", "default")
        yield from movements(numbers, "bf16", "all")
    yield from sinkhorn_cases(((8192, 64), (4096, 8)))
    yield from layer_cases(CPU_LAYERS, "fp32")
    yield from host_cases("fp32")


def all_cases(device: str) -> list[Case]:
    """Every case of a kind of device, ``cuda`` or ``cpu``, in the order of measuring."""
    if device == "cpu":
        found = list(cpu_cases())
    else:
        from .permute_options import option_cases
        from .routing import route_cases  # which needs Case

        found = [*gemm_cases(MODELS), *move_cases(), *option_cases(), *sinkhorn_cases(SINKHORN)]
        found += [*route_cases(), *layer_cases(LAYERS, "bf16"), *host_cases("bf16")]
    blocks: dict[str, list[Case]] = {}
    for case in found:
        blocks.setdefault(case.block, []).append(case)
    return [case for block in blocks.values() for case in block]


def select(device: str, level: str, ops: Iterable[str] = (), patterns: Iterable[str] = ()):
    """The cases of a level; patterns choose among all cases, whatever their level."""
    ops, patterns = list(ops), list(patterns)
    for op in ops:
        if op not in OPS:
            raise ValueError(f"bench: --op got {op!r}; needs one of {', '.join(OPS)}")
    chosen = [case for case in all_cases(device) if not ops or case.op in ops]
    if patterns:
        chosen = [c for c in chosen if any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]
    else:
        chosen = [c for c in chosen if LEVELS.index(c.level) <= LEVELS.index(level)]
    if not chosen:
        raise ValueError(
            f"bench: --case {' '.join(patterns) or 'nothing'} --op {' '.join(ops) or 'any'} got no "
            f"case for {device}; needs a pattern over names; `bench list` prints them"
        )
    return chosen
