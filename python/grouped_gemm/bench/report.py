"""README tables, result pages and plots, from the JSON of runs and nothing else.

    python -m grouped_gemm bench report RESULTS.json [--readme README.md] [--out DIR]

Writes DIR/NAME.md (every cell) and DIR/NAME-*.png beside it, and rewrites the README's text
between ``<!-- bench:begin -->`` and ``<!-- bench:end -->``. NAME is the JSON file's.
"""

from __future__ import annotations

import argparse
import pathlib

from .results import Results, Row, geometric_mean, rate, speed_ratio
from .table import (
    ceiling_lines,
    left_out_lines,
    number,
    peers_of,
    provenance,
    rate_text,
    ratio,
    remark_lines,
    times_text,
    unit,
)

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
MODES = ("steady", "cold")
GEMM_NAMES = {"fwd": "forward", "dgrad": "dgrad", "wgrad": "wgrad", "train": "forward + backward"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m grouped_gemm bench report")
    parser.add_argument("results", help="a JSON file of `bench --json`")
    parser.add_argument("--readme", help="rewrite the performance section of this file")
    parser.add_argument("--out", help="folder of the page and the plots; default: the JSON's")
    options = parser.parse_args(arguments)
    source = pathlib.Path(options.results)
    out = pathlib.Path(options.out) if options.out else source.parent
    results = Results.read(source)
    out.mkdir(parents=True, exist_ok=True)
    from .plots import draw_all

    plots = draw_all(results, out, source.stem)
    page = out / f"{source.stem}.md"
    page.write_text(page_text(results, source.name, [path.name for path in plots]))
    print(f"written: {page}")
    for path in plots:
        print(f"written: {path}")
    if options.readme:
        rewrite_readme(pathlib.Path(options.readme), results, page, plots)
        print(f"rewritten: {options.readme}")
    return 0


def markdown(header: list[str], lines: list[list[str]], left: int = 1) -> str:
    """A table whose first ``left`` columns are aligned left."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


# ---- what the README shows ---------------------------------------------------


def is_large(row: Row) -> bool:
    """Compute-bound shapes, over which geometric means are taken; the decode-like are apart."""
    return not row.case.shape.startswith(("small-m", "1row"))


def gemm_summary(results: Results) -> str:
    """A line for each pass and distribution: means over the large shapes."""
    others = [n for n in peers_of(results) if n not in ("ours", "x * 2", "copy", "dense")]
    header = ["pass", "sizes", "mode", "TFLOP/s", "of the floor", "of dense"]
    header += [f"against {name}" for name in others]
    groups: dict[tuple, list[Row]] = {}
    for row in results.rows:
        case = row.case
        plain = case.layout == "nk" and case.out == "same" and case.dtype in ("bf16", "fp32")
        if case.op in GEMM_NAMES and is_large(row) and plain:
            groups.setdefault((GEMM_NAMES[case.op], case.sizes), []).append(row)
    lines = []
    for (name, sizes), rows in groups.items():
        for mode in MODES:
            mean = geometric_mean(rate(row, "ours", mode) for row in rows)
            if mean is None:
                continue
            cells = [name, sizes, mode, number(mean / 1e12)]
            for other in ("floor", "dense", *others):
                cells.append(ratio(mean_ratio(rows, other, mode)))
            lines.append(cells)
    return markdown(header, lines, left=3) if lines else ""


def mean_ratio(rows: list[Row], other: str, mode: str) -> float | None:
    return geometric_mean(speed_ratio(row, "ours", other, mode) for row in rows)


def move_summary(results: Results) -> str:
    """A line for each operation that moves memory: means over its shapes."""
    others = [n for n in peers_of(results) if n not in ("ours", "x * 2", "dense", "copy", "loop")]
    header = ["operation", "mode", "GB/s", "of copy", *(f"against {name}" for name in others)]
    groups: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.bytes and not row.flops:
            groups.setdefault(row.case.op, []).append(row)
    lines = []
    for op, rows in groups.items():
        for mode in MODES:
            mean = geometric_mean(rate(row, "ours", mode) for row in rows)
            if mean is not None:
                ratios = [ratio(mean_ratio(rows, other, mode)) for other in ("copy", *others)]
                lines.append([op, mode, number(mean / 1e9), *ratios])
    return markdown(header, lines, left=2) if lines else ""


def readme_section(results: Results, page: str, plots: list[str]) -> str:
    """Markdown between the markers. ``page`` and ``plots`` are links from the README."""
    left_out = [f"{name} ({why})" for name, why in results.absent.items()]
    parts = [
        f"Measured on {provenance(results)}, with `{results.environment.get('command')}` in "
        f"{results.seconds:.0f} s. Geometric means; ratios are speeds of ours, 1 is level. "
        "The floor is max(FLOPs / dense rate, bytes / copy rate), with torch.mm's rate at the "
        "same shape and the copy rate of the same run. Steady: back to back for 0.25 s and more; "
        "cold: each call after the L2 was overwritten.",
        gemm_summary(results),
        move_summary(results),
        "\n".join(f"![{pathlib.Path(plot).stem}]({plot})" for plot in plots),
        f"Every cell: [{page}]({page})."
        + (f" Not measured in this run: {'; '.join(left_out)}." if left_out else ""),
    ]
    return "\n\n".join(part for part in parts if part)


def rewrite_readme(
    readme: pathlib.Path, results: Results, page: pathlib.Path, plots: list[pathlib.Path]
) -> None:
    """Replaces what stands between the markers; ValueError where they are missing."""
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"bench: {readme} got no {BEGIN} before {END}; needs one of each")
    folder = readme.resolve().parent

    def link(path: pathlib.Path) -> str:
        resolved = path.resolve()
        return str(resolved.relative_to(folder)) if folder in resolved.parents else str(path)

    section = readme_section(results, link(page), [link(plot) for plot in plots])
    before, rest = text.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{section}\n{END}{rest.split(END)[1]}")


# ---- every cell --------------------------------------------------------------


def page_text(results: Results, source: str, plots: list[str]) -> str:
    parts = [
        f"# {results.environment.get('device_name')}: every cell",
        f"Made by `bench report` from [{source}]({source}); {provenance(results)}. "
        "Each figure: median, ± the distance between the quartiles as a share of it; in brackets "
        "the speed of ours as a multiple of the other's.",
        "\n".join(f"![{plot}]({plot})" for plot in plots),
        "## Ceilings of the machine",
        "\n".join(f"- {line.removeprefix('ceiling ')}" for line in ceiling_lines(results)),
    ]
    for op in dict.fromkeys(row.case.op for row in results.rows):
        rows = [row for row in results.rows if row.case.op == op]
        parts += [f"## {op} ({unit(rows[0])})", cell_table(rows)]
    refused = [
        f"- {row.case.name}: {name}: {timing.refused}"
        for row in results.rows
        for name, timing in row.timings.items()
        if timing.refused
    ]
    notes = [f"- {line}" for line in remark_lines(results)]
    notes += [f"- {line}" for line in left_out_lines(results)]
    notes += [f"- {text}" for text in results.thinned]
    notes += [f"- {name}: {why}" for name, why in results.absent.items()]
    plans = [f"- {name}: `{text}`" for name, text in plans_of(results)]
    for title, lines in (
        ("Refused", refused),
        ("Remarks, left out, thinned, absent", notes),
        ("Plans: the path that each case takes, and why", plans),
    ):
        if lines:
            parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def plans_of(results: Results) -> list[tuple[str, str]]:
    """(case, plan) of every implementation that told one; its name too where it is not ours."""
    return [
        (row.case.name if name == "ours" else f"{row.case.name}: {name}", text)
        for row in results.rows
        for name, text in row.plans.items()
        if text
    ]


def cell_table(rows: list[Row]) -> str:
    others = list(dict.fromkeys(n for row in rows for n in row.timings if n != "ours"))
    modes = ("host",) if rows[0].case.op == "host" else MODES
    header = ["case", "mode", "ours", "us", "floor us", "of the floor", *others, "peak MiB"]
    lines = []
    for row in rows:
        for mode in modes:
            cells = [row.case.name, mode, rate_text(row, "ours", mode), *times_text(row, mode)]
            cells.append(ratio(speed_ratio(row, "ours", "floor", mode)))
            for name in others:
                text, against = rate_text(row, name, mode), speed_ratio(row, "ours", name, mode)
                cells.append(text if against is None else f"{text} ({against:.2f}x)")
            mine = row.timings.get("ours")
            cells.append(f"{mine.peak_bytes / 2**20:.0f}" if mine and mine.peak_bytes else "-")
            lines.append(cells)
    return markdown(header, lines, left=2)
