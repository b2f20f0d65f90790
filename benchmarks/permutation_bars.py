"""The permutation as graph replays, back to back, against a copy of as many bytes.

    python benchmarks/permutation_bars.py [map] [moves] [decode] [odd]

Prints microseconds and, after each, the ratio to the copy. Needs a GPU.
"""

import sys

import grouped_gemm as gg
import torch
from grouped_gemm import ops

raw = torch.ops.grouped_gemm
ROUNDS = 7
# T, topK, h, E
LARGE = [
    (32768, 8, 4096, 128),
    (65536, 8, 2048, 128),
    (8192, 8, 7168, 256),
    (16384, 8, 2048, 128),
    (16384, 2, 4096, 8),
    (8192, 2, 4096, 8),
    (8192, 8, 2048, 128),
]
DECODE = [(1, 8, 2048, 128), (64, 8, 2048, 128), (512, 8, 2048, 128)]
ODD = [(16384, 8, 1025, 128), (8192, 8, 7167, 256)]
MAPS = [(512, 128), (2048, 128), (8192, 8), (8192, 128), (32768, 128), (131072, 128)]  # T, E


def time_us(call, repeats=20):
    """The median of replays of a graph of `repeats` calls, per call."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / repeats)
    return sorted(times)[ROUNDS // 2]


def copy_us(num_bytes):
    """A kernel that reads and writes so many bytes together."""
    source = torch.zeros(num_bytes // 8, device="cuda")
    target = torch.empty_like(source)
    return time_us(lambda: torch.neg(source, out=target))


def measure_map(tokens, experts):
    rows = [torch.randperm(experts, device="cuda")[:8] for _ in range(512)]
    ids = torch.stack(rows).repeat(tokens // 512, 1)
    x = torch.empty(tokens, 0, device="cuda", dtype=torch.bfloat16)
    native = time_us(lambda: gg.moe_permute(x, ids, num_experts=experts))
    drop_in = time_us(lambda: ops.permute(x, ids))
    print(f"map {tokens * 8} slots E={experts}: {native:.2f} us, E not told {drop_in:.2f} us")


def measure_moves(tokens, topk, hidden, experts, dtype):
    x = torch.randn(tokens, hidden, device="cuda").to(dtype)
    ids = torch.rand(tokens, experts, device="cuda").topk(topk).indices
    probs = torch.rand(tokens, topk, device="cuda")
    done = gg.moe_permute(x, ids, num_experts=experts)
    rows, row_map, slots = done.permuted, done.row_id_map, tokens * topk
    moved = (tokens + slots) * hidden * x.element_size()
    once, both = copy_us(moved), copy_us(moved + slots * hidden * x.element_size())
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
    repeats = 5 if slots * hidden > 1 << 29 else 20
    times = {name: (copy, time_us(call, repeats)) for name, (copy, call) in calls.items()}
    told = "; ".join(f"{n} {us:.1f} us {copy / us:.3f}" for n, (copy, us) in times.items())
    print(f"{tokens}x{topk}x{hidden}x{experts} {str(dtype)[6:]}: {told}", flush=True)


def main():
    wanted = sys.argv[1:] or ["map", "moves", "decode", "odd"]
    if "map" in wanted:
        for tokens, experts in MAPS:
            measure_map(tokens, experts)
    for kind, shapes, dtypes in (
        ("moves", LARGE, [torch.bfloat16]),
        ("decode", DECODE, [torch.bfloat16]),
        ("odd", ODD, [torch.float8_e4m3fn, torch.bfloat16]),
    ):
        for shape in shapes if kind in wanted else []:
            for dtype in dtypes:
                measure_moves(*shape, dtype)


if __name__ == "__main__":
    main()
