"""CPU gmm, forward and backward, against a Python loop over torch.mm(out=slice).

    python benchmarks/cpu_gmm.py

Interleaved runs in one process (ours, loop, ours, loop, ...); prints medians, the
spread, and the ratio. The bar: at least 0.95 of the loop's speed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import grouped_gemm
import torch


def loop_forward_backward(x, w, dy, sizes):
    """What a user writes without the package: three products a group, into slices."""
    y = torch.empty(x.shape[0], w.shape[2])
    dx = torch.empty_like(x)
    dw = torch.empty_like(w)
    start = 0
    for e, rows in enumerate(sizes):
        piece = slice(start, start + rows)
        torch.mm(x[piece], w[e], out=y[piece])
        torch.mm(dy[piece], w[e].t(), out=dx[piece])
        torch.mm(x[piece].t(), dy[piece], out=dw[e])
        start += rows
    return y, dx, dw


def ours_forward_backward(x, w, dy, sizes):
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = grouped_gemm.gmm(x, w, sizes)
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    return y.detach(), dx, dw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--size", type=int, default=512, help="K and N")
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()

    torch.manual_seed(0)
    x = torch.randn(options.tokens, options.size)
    w = torch.randn(options.experts, options.size, options.size)
    dy = torch.randn(options.tokens, options.size)
    sizes = torch.full((options.experts,), options.tokens // options.experts)

    for ours, loop in zip(
        ours_forward_backward(x, w, dy, sizes),
        loop_forward_backward(x, w, dy, sizes.tolist()),
        strict=True,
    ):
        torch.testing.assert_close(ours, loop)

    times: dict[str, list[float]] = {"ours": [], "loop": []}
    for run in range(options.runs + 3):
        for name, function, sizes_argument in (
            ("ours", ours_forward_backward, sizes),
            ("loop", loop_forward_backward, sizes.tolist()),
        ):
            start = time.perf_counter()
            function(x, w, dy, sizes_argument)
            if run >= 3:  # warm
                times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name}: median {middle * 1e3:.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f})")
    speed = [loop / ours for ours, loop in zip(times["ours"], times["loop"], strict=True)]
    print(f"speed of ours relative to the loop: {statistics.median(speed):.3f} (needs >= 0.95)")


if __name__ == "__main__":
    main()
