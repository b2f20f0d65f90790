"""The permutation against a copy of as many bytes, each in the same mode.

    python benchmarks/permutation_bars.py [map] [moves] [decode] [odd] [--quick] [--only NAME,...]

Two modes: `cold`, one call after the L2 cache was written over, and `steady`, calls back to
back in one CUDA graph. Prints microseconds and, for movements, the ratio to the copy. `--quick`
leaves cold out. All graphs share one memory pool, so that what is compared lies at the same
place. Needs a GPU; about a minute for everything.
"""

import argparse

import grouped_gemm as gg
import torch
from grouped_gemm import ops
from grouped_gemm.bench.catalogue import DECODE_MOVES, MOVES, ODD_FP8_MOVES

raw = torch.ops.grouped_gemm
MAPS = [(512, 128), (2048, 128), (8192, 8), (8192, 128), (32768, 128), (131072, 128)]  # T, E
STEADY_ROUNDS, COLD_ROUNDS = 7, 11
STEADY_SECONDS = 2e-3  # of one round
WARM_SECONDS = 0.1  # of untimed rounds: the first ones of a graph took up to 12 % longer


class Timer:
    """Microseconds of a call in both modes: medians."""

    def __init__(self, cold: bool):
        self.pool = torch.cuda.graph_pool_handle()
        size = 3 * torch.cuda.get_device_properties(0).L2_cache_size
        self.flushed = torch.empty(size, dtype=torch.uint8, device="cuda") if cold else None

    def __call__(self, call) -> dict[str, float]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.synchronize()
        once = self._capture(call, 1)
        seconds = self._replay(once) * 1e-6
        repeats = min(max(int(STEADY_SECONDS / seconds), 4), 50)
        many = self._capture(call, repeats)
        for _ in range(int(WARM_SECONDS / (repeats * seconds))):
            many.replay()
        times = {"steady": median(self._replay(many) for _ in range(STEADY_ROUNDS)) / repeats}
        if self.flushed is not None:
            times["cold"] = median(self._replay(once, cold=True) for _ in range(COLD_ROUNDS))
        return times

    def _capture(self, call, repeats: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            for _ in range(repeats):
                call()
        return graph

    def _replay(self, graph, cold: bool = False) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        if cold:
            self.flushed.fill_(1)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e3


def median(values) -> float:
    values = sorted(values)
    return values[len(values) // 2]


def copy_times(timer: Timer, num_bytes: int) -> dict[str, float]:
    """A kernel that reads and writes so many bytes together."""
    source = torch.zeros(num_bytes // 8, device="cuda")
    target = torch.empty_like(source)
    return timer(lambda: torch.neg(source, out=target))


def told(name: str, times: dict, copy: dict | None = None) -> str:
    parts = []
    for mode, us in times.items():
        ratio = f" {copy[mode] / us:.3f}" if copy else ""
        parts.append(f"{mode} {us:.2f}{ratio}")
    return f"{name}: " + ", ".join(parts)


def measure_map(timer: Timer, tokens: int, experts: int, wanted) -> None:
    rows = [torch.randperm(experts, device="cuda")[:8] for _ in range(512)]
    ids = torch.stack(rows).repeat(tokens // 512, 1)
    x = torch.empty(tokens, 0, device="cuda", dtype=torch.bfloat16)
    calls = {
        "map": lambda: gg.moe_permute(x, ids, num_experts=experts),
        "map, E not told": lambda: ops.permute(x, ids),
    }
    parts = [told(name, timer(call)) for name, call in calls.items() if wanted(name)]
    print(f"{tokens * 8} slots E={experts}  " + "; ".join(parts), flush=True)


def measure_moves(timer: Timer, tokens, topk, hidden, experts, dtype, wanted) -> None:
    x = torch.randn(tokens, hidden, device="cuda").to(dtype)
    ids = torch.rand(tokens, experts, device="cuda").topk(topk).indices
    probs = torch.rand(tokens, topk, device="cuda")
    done = gg.moe_permute(x, ids, num_experts=experts)
    rows, row_map, slots = done.permuted, done.row_id_map, tokens * topk
    moved = (tokens + slots) * hidden * x.element_size()
    once = copy_times(timer, moved)
    both = copy_times(timer, moved + slots * hidden * x.element_size())
    calls = {
        "moe_permute": (once, lambda: gg.moe_permute(x, ids, num_experts=experts)),
        "permute": (once, lambda: ops.permute(x, ids)),
        "unpermute": (once, lambda: gg.moe_unpermute(rows, row_map, probs)),
        "permute_bwd": (once, lambda: raw._unpermute(rows, row_map, None, topk)),
        "unpermute_bwd": (
            both,
            lambda: raw._unpermute_bwd(x, rows, row_map, probs, topk, slots, True),
        ),
    }
    print(f"{tokens}x{topk}x{hidden}x{experts} {str(dtype)[6:]}")
    for name, (copy, call) in calls.items():
        if wanted(name):
            print("  " + told(name, timer(call), copy), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = ("map", "moves", "decode", "odd")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(kinds)}: all")
    parser.add_argument("--quick", action="store_true", help="back to back only")
    parser.add_argument("--only", metavar="NAME,...", help="these operations")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        if kind not in kinds:
            parser.error(f"KIND got {kind!r}; needs one of {', '.join(kinds)}")
    names = arguments.only.split(",") if arguments.only else []

    def wanted(name: str) -> bool:
        return not names or name in names

    timer = Timer(cold=not arguments.quick)
    chosen = arguments.kinds or kinds
    if "map" in chosen:
        for tokens, experts in MAPS:
            measure_map(timer, tokens, experts, wanted)
    for kind, shapes, dtypes in (
        ("moves", MOVES, [torch.bfloat16]),
        ("decode", DECODE_MOVES, [torch.bfloat16]),
        ("odd", ODD_FP8_MOVES[:2], [torch.float8_e4m3fn, torch.bfloat16]),
    ):
        for shape in shapes if kind in chosen else []:
            for dtype in dtypes:
                measure_moves(timer, *shape, dtype, wanted)


if __name__ == "__main__":
    main()
