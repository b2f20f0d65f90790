"""Grouped GEMM into every kind of output, against torch, the dense product and the bytes of out.

    python benchmarks/gemm_outputs.py [model ...]

One process, cold L2, calls interleaved, medians; bf16 operands, weights [E, N, K]. Prints
microseconds, then the shares of the floor max(dense product, reading and writing out). Needs a GPU.
"""

import math
import sys

import grouped_gemm as gg
import torch

ROUNDS = 7
# experts, rows, h, f: up is K = h, N = 2 f; down K = f, N = h
MODELS = {
    "mixtral8x7b": (8, 16384, 4096, 14336),
    "dsv3-ep8": (32, 32768, 7168, 2048),
    "qwen3-30b": (128, 65536, 2048, 768),
    "qwen3-235b": (128, 65536, 4096, 1536),
    "olmoe": (64, 65536, 2048, 1024),
    "gptoss120b": (128, 32768, 2880, 2880),
}


def group_sizes(kind, experts, rows):
    if kind == "balanced":
        return torch.full((experts,), rows // experts, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    if kind == "random":
        shares = torch.softmax(0.5 * torch.randn(experts, generator=generator), 0)
    else:
        shares = 1 / torch.arange(1, experts + 1)
        shares = shares[torch.randperm(experts, generator=generator)]
    chosen = torch.multinomial(shares, rows, replacement=True, generator=generator)
    return torch.bincount(chosen, minlength=experts).int()


def cold_us(calls):
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    events = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            flush.fill_(1)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {
        name: sorted(a.elapsed_time(b) * 1e3 for a, b in pairs)[ROUNDS // 2]
        for name, pairs in events.items()
    }


def measure(name, experts, rows, k, n):
    w = torch.randn(experts, n, k, device="cuda", dtype=torch.bfloat16) / math.sqrt(k)
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    y = torch.randn(rows, n, device="cuda", dtype=torch.bfloat16)
    x16, y16, w16 = torch.empty_like(x), torch.empty_like(y), torch.zeros_like(w)
    y32 = torch.empty(rows, n, device="cuda")
    w32 = torch.zeros(w.shape, device="cuda")
    grouped_mm = torch.nn.functional.grouped_mm
    for kind in ("balanced", "random", "skewed"):
        sizes = group_sizes(kind, experts, rows).cuda()
        offs = sizes.cumsum(0).int()

        def wgrad(out, accumulate, sizes=sizes):
            gg.gmm_wgrad(x, y, sizes, True, out=out, accumulate=accumulate)

        def forward(out, sizes=sizes):
            gg.gmm(x, w, sizes, True, out=out)

        calls = {
            "dense forward": lambda: torch.mm(x, w[0].t(), out=y16),
            "torch forward": lambda offs=offs: grouped_mm(x, w.transpose(1, 2), offs=offs),
            "forward": lambda forward=forward: forward(y16),
            "forward fp32": lambda forward=forward: forward(y32),
            "dense dgrad": lambda: torch.mm(y, w[0], out=x16),
            "torch dgrad": lambda offs=offs: grouped_mm(y, w, offs=offs),
            "dgrad": lambda sizes=sizes: gg.gmm(y, w, sizes, out=x16),
            "dense wgrad": lambda: torch.mm(y.t(), x, out=w16[0]),
            "torch wgrad": lambda offs=offs: grouped_mm(y.t(), x, offs=offs),
            "wgrad": lambda wgrad=wgrad: wgrad(w16, False),
            "wgrad bf16 +=": lambda wgrad=wgrad: wgrad(w16, True),
            "wgrad fp32": lambda wgrad=wgrad: wgrad(w32, False),
            "wgrad fp32 +=": lambda wgrad=wgrad: wgrad(w32, True),
            "write fp32": lambda: w32.zero_(),
            "add fp32": lambda: w32.mul_(1.0),
            "add bf16": lambda: w16.mul_(1.0),
        }
        us = cold_us(calls)
        print(name, kind, " ".join(f"{call}: {time:.0f} us," for call, time in us.items()))
        dense = us["dense wgrad"]
        floors = {
            "wgrad bf16 +=": max(dense, us["add bf16"]),
            "wgrad fp32": max(dense, us["write fp32"]),
            "wgrad fp32 +=": max(dense, us["add fp32"]),
        }
        told = [f"{call} {floor / us[call]:.2f} of the floor" for call, floor in floors.items()]
        for call in ("forward", "dgrad", "wgrad"):
            of_torch, of_dense = (us[f"{peer} {call}"] / us[call] for peer in ("torch", "dense"))
            told.append(f"{call} {of_torch:.2f} of torch, {of_dense:.2f} of dense")
        told.append(f"forward fp32 {us['forward'] / us['forward fp32']:.2f} of bf16")
        print("   ", "; ".join(told), flush=True)


def main():
    for model in sys.argv[1:] or MODELS:
        experts, rows, h, f = MODELS[model]
        measure(f"{model}-up", experts, rows, h, 2 * f)
        measure(f"{model}-down", experts, rows, f, h)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
