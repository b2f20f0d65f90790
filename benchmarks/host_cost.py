"""Host time per call on a GPU, tiny shapes: what the CPU spends before it can go on.

    python benchmarks/host_cost.py

Interleaved in one process; each figure is the median over rounds of the mean of a
burst of calls that the GPU keeps up with. The bars: gmm with device sizes (forward)
at most 2x torch.nn.functional.grouped_mm; permute and unpermute at most 40 us.
"""

from __future__ import annotations

import statistics
import time

import grouped_gemm
import torch

ROUNDS = 30
CALLS = 100


def microseconds(function) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        function()
    elapsed = time.perf_counter() - start
    torch.cuda.synchronize()
    return elapsed / CALLS * 1e6


def cases() -> dict:
    device = "cuda"
    x = torch.randn(64, 64, device=device, dtype=torch.bfloat16)
    w = torch.randn(4, 64, 64, device=device, dtype=torch.bfloat16)
    offs = torch.tensor([16, 32, 48, 64], device=device, dtype=torch.int32)
    sizes = torch.full((4,), 16, device=device)
    sizes_host = sizes.cpu()
    indices = torch.randint(0, 4, (64, 2), device=device)
    probs = torch.rand(64, 2, device=device)
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    result = grouped_gemm.moe_permute(x, indices, num_experts=4)
    x_grad, w_grad = x.clone().requires_grad_(), w.clone().requires_grad_()
    return {
        "torch grouped_mm": lambda: torch.nn.functional.grouped_mm(x, w, offs=offs),
        "gmm, device sizes": lambda: grouped_gemm.gmm(x, w, sizes),
        "gmm, offs": lambda: grouped_gemm.gmm(x, w, offs=offs),
        "gmm, host sizes": lambda: grouped_gemm.gmm(x, w, sizes_host),
        "torch grouped_mm, autograd": lambda: torch.nn.functional.grouped_mm(
            x_grad, w_grad, offs=offs
        ),
        "gmm, device sizes, autograd": lambda: grouped_gemm.gmm(x_grad, w_grad, sizes),
        "permute": lambda: grouped_gemm.permute(x, indices),
        "permute, autograd": lambda: grouped_gemm.permute(x_grad, indices),
        "unpermute": lambda: grouped_gemm.unpermute(permuted, row_id_map, probs),
        "moe_permute": lambda: grouped_gemm.moe_permute(x, indices, num_experts=4),
        "moe_unpermute": lambda: grouped_gemm.moe_unpermute(
            result.permuted, result.row_id_map, probs
        ),
        "x * 2.0": lambda: x * 2.0,
    }


def main() -> None:
    table = cases()
    times: dict[str, list[float]] = {name: [] for name in table}
    for round_index in range(ROUNDS + 2):
        for name, function in table.items():
            elapsed = microseconds(function)
            if round_index >= 2:  # warm
                times[name].append(elapsed)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: host us per call")
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"  {name:28s} {median[name]:6.1f}  ({min(values):.1f} to {max(values):.1f})")
    for name in ("gmm, device sizes", "gmm, offs"):
        ratio = median[name] / median["torch grouped_mm"]
        print(f"{name} / torch grouped_mm = {ratio:.2f} (needs <= 2)")


if __name__ == "__main__":
    main()
