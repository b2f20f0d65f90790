"""What the terminal shows of a run and of a comparison: rich tables."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from .cases import MOE_OPS
from .ceilings import ceiling_rate
from .results import (
    CEILINGS,
    Change,
    Results,
    Row,
    geometric_mean,
    median_ms,
    rate,
    samples,
    speed_ratio,
    spread,
)


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def rate_text(row: Row, peer: str, mode: str) -> str:
    """TFLOP/s or GB/s with the spread in per cent, microseconds for host cases."""
    timing = row.timings.get(peer)
    if timing is None:
        return "-"
    if timing.refused:
        return "refused"
    if mode == "host":
        ms = median_ms(timing, "host")
        text = "-" if ms is None else number(ms * 1e3)
    else:
        speed = rate(row, peer, mode)
        text = "-" if speed is None else number(speed / (1e12 if row.flops else 1e9))
    share = spread(samples(timing, mode))
    return f"{text} ±{share * 100:.0f}%" if share >= 0.005 and text != "-" else text


def times_text(row: Row, mode: str) -> tuple[str, str]:
    """Microseconds of ours and of the floor."""
    mine, floor = median_ms(row.timings.get("ours"), mode), row.floor_ms.get(mode)
    return number(mine and mine * 1e3, 4), number(floor and floor * 1e3, 4)


def peers_of(results: Results) -> list[str]:
    """Every implementation that has a timing, ours first, in order of appearance."""
    names = {name: None for row in results.rows for name in row.timings}
    return sorted(names, key=lambda name: (name != "ours", name in CEILINGS))


def unit(row: Row) -> str:
    if row.case.op == "host":
        return "us"
    return "TFLOP/s" if row.flops else "GB/s"


def run_table(results: Results) -> Table:
    """A line for each case and mode: ours, its ratios to the floor and to everyone else."""
    others = [name for name in peers_of(results) if name != "ours"]
    table = Table(
        title=f"{results.environment.get('device_name')}: ours against",
        caption="± distance of the quartiles; (1.20x): ours is 1.20 times as fast as that one",
    )
    for name in ("case", "mode", "ours", "unit", "us", "floor us", "of floor"):
        table.add_column(name, justify="left" if name in ("case", "mode", "unit") else "right")
    for name in others:
        table.add_column(name, justify="right")
    for row in results.rows:
        for mode in ("host",) if row.case.op == "host" else ("cold", "steady"):
            cells = [_against(row, name, mode) for name in others]
            floor = ratio(speed_ratio(row, "ours", "floor", mode))
            mine = rate_text(row, "ours", mode)
            times = times_text(row, mode)
            table.add_row(row.case.name, mode, mine, unit(row), *times, floor, *cells)
    return table


def _against(row: Row, name: str, mode: str) -> str:
    """The other's figure, and ours as a multiple of its speed."""
    text = rate_text(row, name, mode)
    against = speed_ratio(row, "ours", name, mode)
    return text if against is None else f"{text} ({against:.2f}x)"


def summary_lines(results: Results) -> list[str]:
    """Geometric means by op, ceilings, what was refused, thinned and absent."""
    lines = []
    others = [name for name in peers_of(results) if name not in ("ours", "x * 2")]
    for op in dict.fromkeys(row.case.op for row in results.rows if row.case.op != "host"):
        for mode in ("cold", "steady"):
            rows = [row for row in results.rows if row.case.op == op]
            means = {
                name: geometric_mean(speed_ratio(row, "ours", name, mode) for row in rows)
                for name in ("floor", *others)
            }
            text = ", ".join(f"{ratio(v)} of {name}" for name, v in means.items() if v)
            lines.append(f"{op} {mode}, geometric mean of our speed: {text or 'nothing timed'}")
    lines += ceiling_lines(results)
    for row in results.rows:
        for name, timing in row.timings.items():
            if timing.refused:
                lines.append(f"refused: {row.case.name}: {name}: {timing.refused}")
    lines += memory_lines(results)
    lines += remark_lines(results)
    lines += detour_lines(results)
    lines += left_out_lines(results)
    lines += [f"thinned: {text}" for text in results.thinned]
    lines += [f"absent: {name}: {why}" for name, why in results.absent.items()]
    return lines


def remark_lines(results: Results) -> list[str]:
    """What peers say of how they differ, each once."""
    said = {f"{n}: {text}": None for row in results.rows for n, text in row.remarks.items() if text}
    return [f"remark: {line}" for line in said]


def memory_lines(results: Results) -> list[str]:
    """Peak memory of the layers' cases beyond their operands, side by side."""
    lines = []
    for row in results.rows:
        peaks = {
            name: timing.peak_bytes
            for name, timing in row.timings.items()
            if timing.peak_bytes and name not in CEILINGS
        }
        if row.case.op in MOE_OPS and peaks:
            shown = ", ".join(f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks.items())
            lines.append(f"peak memory beyond operands: {row.case.name}: {shown}")
    return lines


def detour_lines(results: Results) -> list[str]:
    """Why cases do not take their device's best path: each reason once, with one such case."""
    reasons: dict[str, list[str]] = {}
    for row in results.rows:
        plan = row.plans.get("ours", "")
        reason = plan.partition(" because ")[2] or (plan if plan.startswith("none: ") else "")
        if reason:
            reasons.setdefault(reason, []).append(row.case.name)
    return [
        f"another path: {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        + f": {reason}" for reason, names in reasons.items()
    ]  # fmt: skip


def left_out_lines(results: Results) -> list[str]:
    """Why a peer has no figure in some cases: each reason once, with how many cases."""
    counts: dict[tuple[str, str], int] = {}
    for row in results.rows:
        for name, reason in row.left_out.items():
            if name not in CEILINGS:
                counts[name, reason] = counts.get((name, reason), 0) + 1
    return [f"left out: {name}: {why} ({count} cases)" for (name, why), count in counts.items()]


def ceiling_lines(results: Results) -> list[str]:
    lines = []
    for name, entry in results.ceilings.items():
        scale, what = (1e12, "TFLOP/s") if entry["unit"] == "FLOP" else (1e9, "GB/s")
        speeds = [ceiling_rate({name: entry}, name, mode) for mode in ("cold", "steady")]
        shown = " / ".join(number(s / scale) if s else "-" for s in speeds)
        reason = entry["timing"].get("refused")
        lines.append(f"ceiling {name}: {reason or f'{shown} {what} cold / steady'}")
    return lines


def provenance(results: Results) -> str:
    """Machine, versions, source and date, in one line."""
    e = results.environment
    parts = [e.get("device_name"), f"torch {e.get('torch')}"]
    if e.get("device") == "cuda":
        parts += [f"driver {e.get('driver')}", f"CUDA toolkit {e.get('toolkit')}"]
        clock = e.get("clocks", {}).get("clocks.sm")
        if clock:
            low, middle, high = clock
            parts.append(f"SM clock {middle:.0f} MHz in the median ({low:.0f} to {high:.0f} MHz)")
    library = e.get("library")
    parts += [e.get("source"), library and f"library {library}", e.get("date")]
    return ", ".join(str(part) for part in parts if part)


def compare_table(changes: list[Change], everything: bool = False) -> Table:
    """Cells that changed beyond their spread, or all."""
    table = Table(title="after against before, ms")
    for name in ("case", "mode", "before", "after", "ratio", "allowed", "verdict"):
        left = name in ("case", "mode", "verdict")
        table.add_column(name, justify="left" if left else "right")
    for change in changes:
        if everything or change.verdict != "same":
            before, after = f"{change.before_ms:.4g}", f"{change.after_ms:.4g}"
            allowed = f"±{change.allowed * 100:.0f}%"
            table.add_row(
                change.case, change.mode, before, after, f"{change.ratio:.3f}", allowed,
                change.verdict,
            )  # fmt: skip
    return table


def machine_lines(before: Results, after: Results, noticed: float = 0.05) -> list[str]:
    """How the machine itself changed: where its ceilings moved, so did everything below them."""
    lines = []
    for name in before.ceilings.keys() & after.ceilings.keys():
        old, new = (ceiling_rate(run.ceilings, name, "steady") for run in (before, after))
        if old and new and abs(new / old - 1) > noticed:
            lines.append(
                f"the machine is not as before: ceiling {name} at {new / old:.2f} of its speed "
                "then; busy, or other clocks? `compare --relative` divides by each run's ceilings"
            )
    return sorted(lines)


def change_lines(changes: list[Change]) -> list[str]:
    """Geometric means of the times' ratios, by op and mode."""
    groups: dict[tuple[str, str], list[float]] = {}
    for change in changes:
        groups.setdefault((change.case.split("/")[0], change.mode), []).append(change.ratio)
    return [
        f"{op} {mode}: geometric mean of the times {geometric_mean(ratios):.3f} of before"
        for (op, mode), ratios in groups.items()
    ]


# ---- the terminal ------------------------------------------------------------


def console(plain: bool) -> Console:
    """Tables into a file or a pipe must not be cut at 80 columns."""
    width = None if sys.stdout.isatty() else 240
    return Console(width=width, no_color=plain or None, highlight=False)


class ProgressBar:
    """A bar over the blocks, or a line for each; entering gives the session's report function."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain or not sys.stderr.isatty()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=self._plain)

    def __enter__(self):
        self._bar.start()
        task = self._bar.add_task("measuring")

        def report(block: str, done: int, total: int) -> None:
            self._bar.update(task, description=block or "done", completed=done, total=total)
            if self._plain and block:
                print(f"[{done + 1}/{total}] {block}", file=sys.stderr, flush=True)

        return report

    def __exit__(self, *_) -> None:
        self._bar.stop()
