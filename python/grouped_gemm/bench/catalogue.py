"""Every case that is measured, in one place; ``select`` is what the command line calls."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from .cases import GEMM_OPS, LEVELS, MOE_OPS, OPS, Case, gemm_case, move_case
from .permute_options import option_cases
from .routing import route_cases

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
