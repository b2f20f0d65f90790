"""Nsight Compute on one case, and what it says in a few lines: ``make profile CASE=...``.

    python -m grouped_gemm bench profile CASE [--peer NAME] [--keep REPORT.csv]
    python -m grouped_gemm bench profile --csv REPORT.csv      a report made earlier

Runs this package under ``ncu`` with clocks left as they are; the case is called once between
cudaProfilerStart and Stop, after a warm-up. Reads ncu's raw page as CSV.
"""

from __future__ import annotations

import argparse
import csv
import io
import pathlib
import shutil
import subprocess
import sys

SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "LaunchStats",
    "Occupancy",
    "SchedulerStats",
    "WarpStateStats",
)
_STALL = "smsp__average_warps_issue_stalled_"
_STALL_END = "_per_issue_active.ratio"
_TO_SECONDS = {"ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "s": 1.0}
_TO_BYTES = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m grouped_gemm bench profile")
    parser.add_argument("case", nargs="?", help="a case's name, or a pattern for one")
    parser.add_argument("--peer", default="ours")
    parser.add_argument("--keep", metavar="PATH", help="keep ncu's CSV there")
    parser.add_argument("--csv", metavar="PATH", help="summarise this CSV; runs nothing")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # under ncu
    options = parser.parse_args(arguments)
    if options.csv:
        print(summary(pathlib.Path(options.csv).read_text()))
        return 0
    if options.case is None:
        raise ValueError("bench: profile got no case; needs a name; `bench list` prints them")
    if options.inside:
        _call_once(options.case, options.peer)
        return 0
    text = _run_ncu(options.case, options.peer)
    if options.keep:
        pathlib.Path(options.keep).write_text(text)
    print(summary(text))
    return 0


def _run_ncu(case: str, peer: str) -> str:
    ncu = shutil.which("ncu")
    if ncu is None:
        raise ValueError("bench: profile got no ncu on the PATH; needs Nsight Compute; install it")
    command = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv"]
    command += ["--page", "raw", "--print-units", "base"]
    for section in SECTIONS:
        command += ["--section", section]
    inside = [sys.executable, "-m", "grouped_gemm", "bench", "profile", case, "--peer", peer]
    done = subprocess.run([*command, *inside, "--inside"], capture_output=True, text=True)
    if done.returncode != 0 or '"ID"' not in done.stdout:
        lines = (done.stdout + done.stderr).strip().splitlines()
        reason = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "")
        raise ValueError(f"bench: ncu got as far as: {reason}; needs the right to read counters")
    return done.stdout


def _call_once(name: str, peer_name: str) -> None:
    """Runs in the profiled process."""
    import torch

    from .cases import select
    from .operands import Operands
    from .peers import builtin_peers

    case = select("cuda", "all", patterns=[name])[0]
    peer = next((p for p in builtin_peers() if p.name == peer_name), None)
    if peer is None or peer.supports(case) is not None:
        raise ValueError(f"bench: --peer got {peer_name}; needs one that computes {case.name}")
    call = peer.build(case, Operands(torch.device("cuda")).of(case))
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


# ---- reading -----------------------------------------------------------------


def read_kernels(text: str) -> list[dict[str, tuple[str, str]]]:
    """One dict for each launch: column -> (value, unit). Lines before the header are skipped."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("bench: the CSV got no header with ID; needs ncu's --csv --page raw")
    header, units, *rows = csv.reader(io.StringIO("\n".join(lines[start:])))
    return [
        dict(zip(header, zip(row, units, strict=False), strict=False))
        for row in rows
        if len(row) >= len(header) - 1 and row[0].isdigit()
    ]


def _value(kernel: dict, name: str) -> float | None:
    text = kernel.get(name, ("", ""))[0].replace(",", "")
    try:
        return float(text)
    except ValueError:
        return None


def _scaled(kernel: dict, name: str, scales: dict[str, float]) -> float | None:
    value = _value(kernel, name)
    if value is None:
        return None
    return value * scales.get(kernel[name][1].split("/")[0], 1.0)


def summary(text: str) -> str:
    """A few lines for each kernel, longest first in the order of launching."""
    kernels = read_kernels(text)
    total = sum(_scaled(k, "gpu__time_duration.sum", _TO_SECONDS) or 0 for k in kernels)
    lines = [f"{len(kernels)} kernels, {total * 1e6:.1f} us"]
    for kernel in kernels:
        lines += ["", *_kernel_lines(kernel, total)]
    return "\n".join(lines)


def bound(compute: float | None, memory: float | None) -> str:
    """What limits a kernel, from its two per cent figures of peak."""
    if compute is None or memory is None:
        return "unknown: ncu gave no speed of light"
    if max(compute, memory) < 60:
        return "latency: neither compute nor memory is busy"
    if abs(compute - memory) < 10:
        return "compute and memory alike"
    return "compute" if compute > memory else "memory"


def _kernel_lines(kernel: dict, total: float) -> list[str]:
    name = kernel.get("Kernel Name", ("?", ""))[0]
    seconds = _scaled(kernel, "gpu__time_duration.sum", _TO_SECONDS) or 0
    compute = _value(kernel, "sm__throughput.avg.pct_of_peak_sustained_elapsed")
    memory = _value(kernel, "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed")
    dram = _value(kernel, "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed")
    rate = _scaled(kernel, "dram__bytes.sum.per_second", _TO_BYTES)
    if rate is None:
        moved = [_scaled(kernel, f"dram__bytes_{way}.sum", _TO_BYTES) for way in ("read", "write")]
        rate = sum(moved) / seconds if None not in moved and seconds else None
    share = f" ({seconds / total * 100:.0f} %)" if total else ""
    lines = [f"{name[:110]}: {seconds * 1e6:.1f} us{share}"]
    lines.append(f"  bound by {bound(compute, memory)}")
    lines.append(
        f"  of peak: compute {_percent(compute)}, memory {_percent(memory)}, "
        f"DRAM {_percent(dram)}" + (f" at {rate / 1e9:.0f} GB/s" if rate else "")
    )
    reached = _value(kernel, "sm__warps_active.avg.pct_of_peak_sustained_active")
    possible = _value(kernel, "sm__maximum_warps_per_active_cycle_pct")
    facts = {
        "registers": "launch__registers_per_thread",
        "threads": "launch__block_size",
        "blocks": "launch__grid_size",
        "waves": "launch__waves_per_multiprocessor",
    }
    shown = [f"{k} {v:g}" for k, n in facts.items() if (v := _value(kernel, n)) is not None]
    lines.append(
        f"  occupancy {_percent(reached)} of {_percent(possible)} possible; {', '.join(shown)}"
    )
    lines.append(f"  stalls, warps per issue: {_stalls(kernel)}")
    return lines


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} %"


def _stalls(kernel: dict, most: int = 4) -> str:
    """The reasons for which warps wait, heaviest first; not_issued counts twice, so left out."""
    found = {}
    for column in kernel:
        if column.startswith(_STALL) and column.endswith(_STALL_END):
            reason = column[len(_STALL) : -len(_STALL_END)]
            value = _value(kernel, column)
            if value and reason != "selected" and not reason.endswith("_not_issued"):
                found[reason] = value
    heaviest = sorted(found.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{reason} {value:.2f}" for reason, value in heaviest) or "none reported"
