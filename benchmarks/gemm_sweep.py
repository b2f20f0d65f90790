"""Grouped GEMM cold, cell by cell, against torch: where is it slow?

    python benchmarks/gemm_sweep.py [others] [models] [outputs] [--only PATTERN] [--json FILE]

`others`: forward with both layouts of the weights, dgrad and wgrad on shapes that nobody tuned
for: models beside those of `bench list`, decode steps, one rank's share of a model, small layers;
`random` sizes. `models`: the same passes on the models of `bench list` and with one row an expert,
in three distributions, dense products beside them. `outputs`: float16 operands, float32 results and
`+=` on these models, `random` sizes, as shares of bf16's time and of the floor: the dense product's
time or that of copying as many bytes, whichever is longer.

bf16 unless it says otherwise, device sizes. Each call after a write larger than the L2, all calls
of a line in turn, medians. Prints microseconds of ours and, in brackets, our speed relative to the
other's (1 is level), then means, geometric, and what is below level, worst first. Results are
compared with torch's; a wrong one ends the run. Needs a GPU; a few minutes for all.
"""

import argparse
import fnmatch
import json
import math
from dataclasses import dataclass

import grouped_gemm as gg
import torch
from gemm_shapes import OTHERS
from grouped_gemm.bench.catalogue import MODELS, ONE_ROW, projections
from grouped_gemm.bench.clock import CudaClock
from grouped_gemm.bench.sizes import group_sizes
from torch.nn.functional import grouped_mm

SMALL_MODELS = ("small-m", *ONE_ROW)  # bound by their weights' bytes


@dataclass
class Cell:
    """One call: what it is compared with is the time of `against`, a name in the same line."""

    name: str
    call: object
    against: str = ""
    answer: object = None  # torch's call, where the result can be compared


def operands(numbers, dtype=torch.bfloat16):
    """x [T,K], dy [T,N], weights [E,N,K] and [E,K,N]."""
    experts, tokens, k, n = numbers
    torch.manual_seed(0)
    new = {"device": "cuda", "dtype": dtype}
    x, dy = torch.randn(tokens, k, **new), torch.randn(tokens, n, **new)
    nk = torch.randn(experts, n, k, **new).div_(math.sqrt(k))
    return x, dy, nk, nk.transpose(1, 2).contiguous()


def passes(numbers, offs, with_dense: bool) -> list[Cell]:
    x, dy, nk, kn = operands(numbers)
    theirs = {
        "torch nk": lambda: grouped_mm(x, nk.transpose(1, 2), offs=offs),
        "torch kn": lambda: grouped_mm(x, kn, offs=offs),
        "torch dgrad": lambda: grouped_mm(dy, nk, offs=offs),
        "torch wgrad": lambda: grouped_mm(dy.t(), x, offs=offs),
    }
    ours = {
        "fwd nk": ("nk", lambda: gg.gmm(x, nk, trans_b=True, offs=offs)),
        "fwd kn": ("kn", lambda: gg.gmm(x, kn, offs=offs)),
        "dgrad nk": ("dgrad", lambda: gg.gmm(dy, nk, offs=offs)),
        "dgrad kn": ("dgrad", lambda: gg.gmm(dy, kn, trans_b=True, offs=offs)),
        "wgrad": ("wgrad", lambda: gg.gmm_wgrad(dy, x, offs=offs)),
    }
    cells = [Cell(name, call) for name, call in theirs.items()]
    for name, (peer, call) in ours.items():
        cells.append(Cell(name, call, f"torch {peer}", theirs[f"torch {peer}"]))
    if with_dense:
        w = nk[0]
        cells.append(Cell("dense fwd", lambda: torch.mm(x, w.t())))
        cells.append(Cell("dense dgrad", lambda: torch.mm(dy, w)))
        cells.append(Cell("dense wgrad", lambda: torch.mm(dy.t(), x)))
    return cells


def outputs(numbers, offs) -> list[Cell]:
    x, dy, nk, kn = operands(numbers)
    w = nk[0]
    half = [tensor.half() for tensor in (x, dy, nk)]
    total = torch.zeros(nk.shape, device="cuda")
    fp32 = {"offs": offs, "out_dtype": torch.float32}
    return [
        Cell("fwd", lambda: gg.gmm(x, nk, trans_b=True, offs=offs)),
        Cell("fwd fp16", lambda: gg.gmm(half[0], half[2], trans_b=True, offs=offs), "fwd"),
        Cell("fwd fp32", lambda: gg.gmm(x, nk, trans_b=True, **fp32), "fwd"),
        Cell("kn fp32", lambda: gg.gmm(x, kn, **fp32), "fwd"),
        Cell("dgrad", lambda: gg.gmm(dy, nk, offs=offs)),
        Cell("dgrad fp16", lambda: gg.gmm(half[1], half[2], offs=offs), "dgrad"),
        Cell("dgrad fp32", lambda: gg.gmm(dy, nk, **fp32), "dgrad"),
        Cell("wgrad", lambda: gg.gmm_wgrad(dy, x, offs=offs)),
        Cell("wgrad fp16", lambda: gg.gmm_wgrad(half[1], half[0], offs=offs), "wgrad"),
        Cell("wgrad fp32", lambda: gg.gmm_wgrad(dy, x, **fp32), "floor fp32"),
        Cell("wgrad +=", lambda: gg.gmm_wgrad(dy, x, offs=offs, out=total, accumulate=True),
             "floor +="),
        Cell("dense", lambda: torch.mm(x, w.t())),
        Cell("dense wgrad", lambda: torch.mm(dy.t(), x)),
    ]  # fmt: skip


def add_floors(times: dict[str, float], numbers, copy_rate: float) -> None:
    """Of wgrad in float32: the dense product's time, or that of its bytes at copy rate; us."""
    experts, tokens, k, n = numbers
    read = tokens * (k + n) * 2
    for name, bytes_each in (("floor fp32", 4), ("floor +=", 8)):
        moved = (read + experts * n * k * bytes_each) / copy_rate * 1e6
        times[name] = max(times["dense wgrad"], moved)


def require_alike(name: str, cell: Cell) -> None:
    if cell.answer is None:
        return
    theirs = cell.answer().float()
    difference = (cell.call().float() - theirs).norm() / theirs.norm()
    if not difference < 1e-2:
        raise SystemExit(f"{name} {cell.name}: differs from torch by {difference:.2g} of its norm")


def time_in_turn(clock: CudaClock, calls, rounds: int) -> list[float]:
    """Median us of each, cold."""
    for _ in range(2):
        for call in calls:
            clock.cold(call)
    samples = [[clock.cold(call) for call in calls] for _ in range(rounds)]
    return [sorted(of_call)[rounds // 2] * 1e3 for of_call in zip(*samples, strict=True)]


def copy_rate(clock: CudaClock) -> float:
    """Bytes per second, read and written together."""
    source = torch.randn(1 << 27, device="cuda")
    target = torch.empty_like(source)
    us = time_in_turn(clock, [lambda: torch.neg(source, out=target)], 7)[0]
    return 2 * source.nbytes / us * 1e6


def measure(kind: str, shapes: dict, distributions, only: str, rounds: int) -> list[dict]:
    clock = CudaClock(torch.device("cuda"))
    rate = copy_rate(clock)
    rows = []
    for shape, numbers in shapes.items():
        for sizes in distributions if fnmatch.fnmatchcase(shape, only) else []:
            name = f"{shape} {sizes}"
            ends = torch.tensor(group_sizes(sizes, numbers[0], numbers[1])).cumsum(0).int().cuda()
            if kind == "outputs":
                cells = outputs(numbers, ends)
            else:
                cells = passes(numbers, ends, with_dense=kind == "models")
            for cell in cells:
                require_alike(name, cell)
            us = time_in_turn(clock, [cell.call for cell in cells], rounds)
            times = dict(zip([cell.name for cell in cells], us, strict=True))
            if kind == "outputs":
                add_floors(times, numbers, rate)
            line = []
            for cell in cells:
                if cell.against:
                    took, ratio = times[cell.name], times[cell.against] / times[cell.name]
                    row = {"shape": shape, "sizes": sizes, "cell": cell.name, "us": took}
                    rows.append({**row, "against": cell.against, "ratio": ratio})
                    line.append(f"{cell.name} {took:.1f} ({ratio:.2f})")
                elif cell.name.startswith("dense"):
                    line.append(f"{cell.name} {times[cell.name]:.1f}")
                    rows += against_dense(rows, shape, sizes, cell.name, times)
            print(f"{name}: " + ", ".join(line), flush=True)
    return rows


def against_dense(rows, shape: str, sizes: str, dense: str, times) -> list[dict]:
    """The cells of the same pass once more, as shares of the dense product."""
    wanted = dense.removeprefix("dense").strip()
    mine = [row for row in rows if row["shape"] == shape and row["sizes"] == sizes]
    return [
        {**row, "against": dense, "ratio": times[dense] / row["us"]}
        for row in mine
        if wanted and row["cell"].startswith(wanted) and row["against"].startswith("torch")
    ]


def summary(rows: list[dict]) -> None:
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        is_small = row["shape"].startswith(SMALL_MODELS)
        group = "small" if is_small else row["sizes"]
        groups.setdefault((group, row["cell"], row["against"]), []).append(row)
    for (group, cell, against), members in groups.items():
        ratios = [row["ratio"] for row in members]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        least = min(members, key=lambda row: row["ratio"])
        print(f"{group}, {cell} against {against}: {mean:.3f} in the mean of {len(ratios)}, least "
              f"{least['ratio']:.3f} ({least['shape']} {least['sizes']})")  # fmt: skip
    below = [row for row in rows if row["ratio"] < 1 and row["against"].startswith("torch")]
    for row in sorted(below, key=lambda row: row["ratio"]):
        print("below torch: {shape} {sizes} {cell} {ratio:.3f}, {us:.1f} us".format(**row))


def main() -> None:
    models = projections(MODELS)
    kinds = {
        "others": (OTHERS, ["random"]),
        "models": ({**models, **ONE_ROW}, ["balanced", "random", "skewed"]),
        "outputs": (models, ["random"]),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(kinds)}: all")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="shapes by name")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="every cell")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        if kind not in kinds:
            parser.error(f"KIND got {kind!r}; needs one of {', '.join(kinds)}")
    found = {}
    for kind in arguments.kinds or kinds:
        print(f"--- {kind}")
        found[kind] = measure(kind, *kinds[kind], arguments.only, arguments.rounds)
        summary(found[kind])
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
