"""Three pictures of a run: the gap to the floor by case, the roofline, the peers side by side.

Drawn with matplotlib from a Results and nothing else; called by ``report.py``.
"""

from __future__ import annotations

import pathlib

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen
from matplotlib.figure import Figure  # noqa: E402

from .cases import GEMM_OPS  # noqa: E402
from .ceilings import ceiling_rate  # noqa: E402
from .results import (  # noqa: E402
    CEILINGS,
    Results,
    Row,
    geometric_mean,
    rate,
    speed_ratio,
)
from .table import peers_of  # noqa: E402

DPI = 110
MARKERS = {"fwd": "o", "dgrad": "s", "wgrad": "^", "train": "D"}


def draw_all(results: Results, folder: pathlib.Path, stem: str) -> list[pathlib.Path]:
    """Writes the pictures that the results have something for."""
    written = []
    for name, draw in (("heat", heat_map), ("roofline", roofline), ("peers", bars)):
        figure = draw(results)
        if figure is not None:
            path = folder / f"{stem}-{name}.png"
            # no date in the file: the same results give the same bytes
            figure.savefig(path, dpi=DPI, metadata={"Software": None}, bbox_inches="tight")
            plt.close(figure)
            written.append(path)
    return written


def _mode(results: Results) -> str:
    steady = any(t.steady_ms for row in results.rows for t in row.timings.values())
    return "steady" if steady else "cold"


def _heat_cell(row: Row) -> tuple[str, str] | None:
    """(line, column) of a row in the heat map."""
    case = row.case
    if case.op in GEMM_OPS:
        kind = "" if case.layout == "nk" and case.out == "same" else f" {case.layout} {case.out}"
        dtype = "" if case.dtype in ("bf16", "fp32") else f" {case.dtype}"
        return case.shape, f"{case.op} {case.sizes}{kind}{dtype}"
    return None


def heat_map(results: Results) -> Figure | None:
    """Ours as a share of the floor: a line for each shape, a column for pass and sizes."""
    mode = _mode(results)
    cells: dict[tuple[str, str], float] = {}
    for row in results.rows:
        place, share = _heat_cell(row), speed_ratio(row, "ours", "floor", mode)
        if place and share:
            cells[place] = share
    if not cells:
        return None
    lines = list(dict.fromkeys(line for line, _ in cells))
    columns = sorted({column for _, column in cells}, key=_column_order)
    figure, axes = plt.subplots(figsize=(2.6 + 0.62 * len(columns), 1.6 + 0.34 * len(lines)))
    values = [[cells.get((line, column), float("nan")) for column in columns] for line in lines]
    image = axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(values):
        for x, share in enumerate(line):
            if share == share:
                axes.text(x, y, f"{share:.2f}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(lines)), lines, fontsize=8)
    axes.set_title(f"speed as a share of the floor, {mode}\n{_machine(results)}", fontsize=9)
    figure.colorbar(image, ax=axes, fraction=0.03)
    return figure


def _column_order(column: str) -> tuple[int, str]:
    op = column.split()[0]
    return GEMM_OPS.index(op), column


def _machine(results: Results) -> str:
    e = results.environment
    return f"{e.get('device_name')}, {e.get('date')}"


def roofline(results: Results) -> Figure | None:
    """FLOP/s over FLOPs per byte, below the machine's own two ceilings."""
    mode = _mode(results)
    copy = ceiling_rate(results.ceilings, "copy", mode)
    rows = [row for row in results.rows if row.flops and rate(row, "ours", mode)]
    if not rows or not copy:
        return None
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    intensities = [row.flops / row.bytes for row in rows]
    low, high = min(intensities) / 2, max(intensities) * 2
    for name in results.ceilings:
        dense = ceiling_rate(results.ceilings, name, mode) if name.startswith("dense") else None
        if dense and name.split()[1] in {row.case.dtype for row in rows}:
            ridge = min(max(dense / copy, low), high)
            reach = [low, ridge, high]
            heights = [min(dense, x * copy) / 1e12 for x in reach]
            axes.plot(reach, heights, label=f"{name}, copy", linewidth=1)
    others = [name for name in ("torch", "loop") if name in peers_of(results)]
    for name, colour in zip(("ours", *others), ("C0", "C1", "C7"), strict=False):
        for op, marker in MARKERS.items():
            mine = [(i, rate(r, name, mode)) for i, r in zip(intensities, rows, strict=True)
                    if r.case.op == op and rate(r, name, mode)]  # fmt: skip
            if mine:
                x, y = zip(*mine, strict=True)
                label = f"{name} {op}"
                heights = [value / 1e12 for value in y]
                axes.scatter(x, heights, s=14, marker=marker, color=colour, label=label, alpha=0.7)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="TFLOP/s")
    axes.set_title(f"roofline, {mode}\n{_machine(results)}", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=6, ncols=2)
    return figure


def bars(results: Results) -> Figure | None:
    """Geometric means of each implementation's share of the floor, by op."""
    mode = _mode(results)
    names = [n for n in peers_of(results) if n not in CEILINGS]
    ops = list(dict.fromkeys(row.case.op for row in results.rows if row.floor_ms.get(mode)))
    if not ops:
        return None
    figure, axes = plt.subplots(figsize=(1.5 + 1.0 * len(ops), 3.4))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        heights = []
        for op in ops:
            rows = [row for row in results.rows if row.case.op == op]
            heights.append(geometric_mean(speed_ratio(r, name, "floor", mode) for r in rows) or 0)
        places = [x + (index - (len(names) - 1) / 2) * width for x in range(len(ops))]
        drawn = axes.bar(places, heights, width, label=name)
        labels = [f"{height:.2f}" if height else "" for height in heights]
        axes.bar_label(drawn, labels, fontsize=6)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(ops)), ops, rotation=25, ha="right", fontsize=8)
    axes.set_ylabel("share of the floor")
    axes.set_title(f"geometric means, {mode}\n{_machine(results)}", fontsize=9)
    axes.legend(fontsize=7)
    return figure
