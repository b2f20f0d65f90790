"""Nsight Compute on one case, and what it says in a few lines: ``make profile CASE=...``.

    python -m grouped_gemm bench profile CASE [--peer NAME] [--keep REPORT.csv]
    python -m grouped_gemm bench profile --csv REPORT.csv      a report made earlier

Runs this package under ``ncu``, with clocks left as they are unless ``--clock-control base`` asks
for steady ones; the case is called once between cudaProfilerStart and Stop, after a warm-up, each
of its kernels on an empty L2 (ncu's default). ``ncu.py`` reads the CSV.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

from .ncu import Kernel, read_kernels

SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "LaunchStats",
    "Occupancy",
    "SchedulerStats",
    "WarpStateStats",
)
# Older and newer versions spell some metrics differently: the first that is there counts.
METRICS = {
    "duration": ("gpu__time_duration.sum", "gpu__time_duration_measured_wallclock.sum"),
    "compute": ("sm__throughput.avg.pct_of_peak_sustained_elapsed",),
    "memory": ("gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",),
    "DRAM": (
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    "occupancy": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    "possible occupancy": (
        "sm__maximum_warps_per_active_cycle_pct",
        "launch__occupancy_theoretical_pct",
    ),
    "registers": ("launch__registers_per_thread",),
    "threads": ("launch__block_size",),
    "blocks": ("launch__grid_size",),
    "waves": ("launch__waves_per_multiprocessor",),
}
_DRAM_RATE = "dram__bytes.sum.per_second"
_DRAM_BYTES = ("dram__bytes_read.sum", "dram__bytes_write.sum")
# A ratio is warps waiting for each instruction issued; the other is a share of the warps.
_STALLS = (
    re.compile(r"smsp__average_warps_issue_stalled_(\w+?)_per_issue_active\.ratio"),
    re.compile(r"smsp__warp_issue_stalled_(\w+?)_per_warp_active\.pct"),
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m grouped_gemm bench profile")
    parser.add_argument("case", nargs="?", help="a case's name, or a pattern for one")
    parser.add_argument("--peer", default="ours")
    parser.add_argument("--keep", metavar="PATH", help="keep ncu's CSV there")
    parser.add_argument("--csv", metavar="PATH", help="summarise this CSV; runs nothing")
    parser.add_argument("--clock-control", choices=("none", "base"), default="none")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # under ncu
    options = parser.parse_args(arguments)
    if options.csv:
        print(summary(_read(options.csv)))
        return 0
    if options.case is None:
        raise ValueError("bench: profile got no case; needs a name; `bench list` prints them")
    if options.inside:
        _call_once(options.case, options.peer)
        return 0
    text = _run_ncu(options.case, options.peer, options.clock_control)
    if options.keep:
        pathlib.Path(options.keep).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(options.keep).write_text(text)
        print(f"written: {options.keep}")
    print(summary(text))
    return 0


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError as error:
        raise ValueError(
            f"bench: --csv got {path}, {error.strerror}; needs a file that --keep wrote"
        ) from None


def _run_ncu(case: str, peer: str, clock_control: str) -> str:
    ncu = shutil.which("ncu")
    if ncu is None:
        raise ValueError("bench: profile got no ncu on the PATH; needs Nsight Compute; install it")
    command = [ncu, "--clock-control", clock_control, "--profile-from-start", "off", "--csv"]
    command += ["--page", "raw", "--print-units", "base"]
    for section in SECTIONS:
        command += ["--section", section]
    command += [sys.executable, "-m", "grouped_gemm", "bench", "profile", case, "--peer", peer]
    # numbers with points, whatever the machine's language
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run([*command, "--inside"], capture_output=True, text=True, env=environment)
    if done.returncode != 0 or '"ID"' not in done.stdout:
        raise ValueError(_why_no_profile(done.stdout + "\n" + done.stderr))
    return done.stdout


def _why_no_profile(output: str) -> str:
    """The case's own complaint if it has one, else ncu's, with what to do about it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    own = next((line for line in lines if line.startswith("bench: ")), None)
    if own is not None:
        return own
    said = [line for line in lines if line.startswith(("==ERROR==", "==WARNING=="))]
    reason = said[0] if said else (lines or ["nothing"])[-1]
    if "ERR_NVGPUCTRPERM" in output:
        return (
            f"bench: ncu said: {reason}; needs the right to read the GPU's counters; run as root, "
            "or load the driver with NVreg_RestrictProfilingToAdminUsers=0"
        )
    return f"bench: ncu said: {reason}; needs a profile of one call; run the case alone first"


def _call_once(name: str, peer_name: str) -> None:
    """Runs in the profiled process."""
    import torch

    from .catalogue import select
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


# ---- the summary -------------------------------------------------------------


def summary(text: str) -> str:
    """A few lines for each kernel, in the order of launching."""
    kernels = read_kernels(text)
    total = sum(_metric(kernel, "duration") or 0 for kernel in kernels)
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


def _metric(kernel: Kernel, what: str) -> float | None:
    return next((kernel.metrics[m] for m in METRICS[what] if m in kernel.metrics), None)


def _dram_rate(kernel: Kernel, seconds: float | None) -> float | None:
    """Bytes per second."""
    if _DRAM_RATE in kernel.metrics:
        return kernel.metrics[_DRAM_RATE]
    moved = [kernel.metrics.get(name) for name in _DRAM_BYTES]
    return sum(moved) / seconds if None not in moved and seconds else None


def _kernel_lines(kernel: Kernel, total: float) -> list[str]:
    seconds = _metric(kernel, "duration")
    rate = _dram_rate(kernel, seconds)
    time = "no duration" if seconds is None else f"{seconds * 1e6:.1f} us"
    share = f" ({seconds / total * 100:.0f} %)" if seconds and total else ""
    compute, memory = _metric(kernel, "compute"), _metric(kernel, "memory")
    shown = [
        f"{what} {value:g}"
        for what in ("registers", "threads", "blocks", "waves")
        if (value := _metric(kernel, what)) is not None
    ]
    lines = [
        f"{_short(kernel.name)}: {time}{share}",
        f"  bound by {bound(compute, memory)}",
        f"  of peak: compute {_percent(compute)}, memory {_percent(memory)}, "
        f"DRAM {_percent(_metric(kernel, 'DRAM'))}"
        + (f" at {rate / 1e9:.0f} GB/s" if rate else ""),
        f"  occupancy {_percent(_metric(kernel, 'occupancy'))} of "
        f"{_percent(_metric(kernel, 'possible occupancy'))} possible; {', '.join(shown)}",
        f"  stalls, {_stalls(kernel)}",
    ]
    missing = [names[0] for what, names in METRICS.items() if _metric(kernel, what) is None]
    if missing:
        lines.append(f"  not reported: {', '.join(missing)}")
    return lines


def _short(name: str, most: int = 110) -> str:
    """Without what templates repeat."""
    name = name.removeprefix("void ").replace("grouped_gemm::", "").replace("gg::", "")
    return name if len(name) <= most else name[: most - 3] + "..."


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} %"


def _stalls(kernel: Kernel, most: int = 4) -> str:
    """The reasons for which warps wait, heaviest first; not_issued counts twice, so left out."""
    for pattern, unit, form in zip(
        _STALLS, ("warps per issue", "of the warps"), ("{:.2f}", "{:.0f} %"), strict=True
    ):
        found = {
            match.group(1): value
            for column, value in kernel.metrics.items()
            if value and (match := pattern.fullmatch(column))
        }
        waiting = [
            item
            for item in found.items()
            if item[0] != "selected" and not item[0].endswith("_not_issued")
        ]
        heaviest = sorted(waiting, key=lambda item: -item[1])[:most]
        if heaviest:
            shown = ", ".join(f"{reason} {form.format(value)}" for reason, value in heaviest)
            return f"{unit}: {shown}"
    return "none reported"
