"""Reads what Nsight Compute prints as CSV: one dict of metrics for each kernel launch.

Three forms, told apart by their header: the raw page (a row for each launch, units in a row of
their own below the header), metrics by name (a row for each launch and metric), and the details
page (the same with captions instead of metric names, which ``_CAPTIONS`` brings back). Units are
converted to seconds, bytes and plain numbers. Called by ``profile.py``.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field

# Section and caption of the details page -> metric. Captions repeat between sections.
_CAPTIONS = {
    "Speed Of Light": {
        "Duration": "gpu__time_duration.sum",
        "Compute (SM) Throughput": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
        "Memory Throughput": "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
        "DRAM Throughput": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    },
    "Memory Workload Analysis": {"Memory Throughput": "dram__bytes.sum.per_second"},
    "Launch Statistics": {
        "Registers Per Thread": "launch__registers_per_thread",
        "Block Size": "launch__block_size",
        "Grid Size": "launch__grid_size",
        "Waves Per SM": "launch__waves_per_multiprocessor",
    },
    "Occupancy": {
        "Achieved Occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
        "Theoretical Occupancy": "sm__maximum_warps_per_active_cycle_pct",
    },
}

_PREFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9,
             "T": 1e12}  # fmt: skip
_UNIT = re.compile(r"([numkKMGT]?)(s|second|sec|byte|hz|Hz)")
_BINARY = {"Kibyte": 2.0**10, "Mibyte": 2.0**20, "Gibyte": 2.0**30, "KiB": 2.0**10, "MiB": 2.0**20}


@dataclass
class Kernel:
    """One launch: its name, its metrics in base units, and what ncu named but could not give."""

    name: str
    metrics: dict[str, float] = field(default_factory=dict)
    unavailable: list[str] = field(default_factory=list)

    def put(self, metric: str, text: str, unit: str) -> None:
        value = number(text)
        if value is not None:
            self.metrics[metric] = value * scale(unit)
        elif text.strip().lower() in ("n/a", "nan", "no data", "(!) n/a"):
            self.unavailable.append(metric)


def number(text: str) -> float | None:
    """1,234.5 and, from a machine with decimal commas, 9,05; None where there is no number."""
    text = re.sub(r"[\s\u00a0\u202f]", "", text)
    if "," in text and not re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(".", "").replace(",", ".")
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def scale(unit: str) -> float:
    """What one of the unit is in seconds, bytes, hertz; 1 for all else (%, inst, register/thread).

    Rates divide by their own time: Gbyte/s, byte/second, byte/ms.
    """
    over, _, under = unit.strip().partition("/")
    return _base(over) / _base(under)


def _base(unit: str) -> float:
    if unit in _BINARY:
        return _BINARY[unit]
    found = _UNIT.fullmatch(unit)
    return _PREFIXES[found.group(1)] if found else 1.0


def read_kernels(text: str) -> list[Kernel]:
    """Every launch in order. Lines that are no CSV (what ncu and the program print) are skipped.

    ValueError where there is no header or no launch.
    """
    kernels: dict[tuple, Kernel] = {}
    header: list[str] = []
    units: dict[str, str] = {}
    for row in csv.reader(line for line in text.splitlines() if line.startswith('"')):
        if row[0] == "ID":
            header, units = row, {}
        elif header and not row[0].isdigit():
            units = dict(zip(header, row, strict=False))
        elif header and "Kernel Name" in header:
            cells = dict(zip(header, row, strict=False))
            key = (cells["ID"], cells.get("Process ID"))
            kernel = kernels.setdefault(key, Kernel(cells["Kernel Name"]))
            _take(kernel, cells, units)
    if not header:
        raise ValueError(
            "bench: the CSV got no header that begins with ID; needs what `ncu --csv --page raw` "
            "prints; profile again with --keep"
        )
    if not kernels:
        raise ValueError(
            "bench: the CSV got a header and no kernel; needs a launch between cudaProfilerStart "
            "and Stop; profile again"
        )
    return list(kernels.values())


def _take(kernel: Kernel, cells: dict[str, str], units: dict[str, str]) -> None:
    if "Metric Name" not in cells:
        for column, text in cells.items():
            if "__" in column:  # metrics, not the launch's own columns
                kernel.put(column, text, units.get(column, ""))
        return
    metric = cells["Metric Name"]
    if "__" not in metric:
        section = cells.get("Section Name", "")
        captions = (names for part, names in _CAPTIONS.items() if part in section)
        metric = next(captions, {}).get(metric, "")
    if metric:
        kernel.put(metric, cells.get("Metric Value", ""), cells.get("Metric Unit", ""))
