"""What a person sees of a run: the progress bar, the closing table, the plot.

Called by train_moe_lm.py. On a terminal the progress is a bar by rich; elsewhere, in a log, it is a
line now and then.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 5
BLOCKS = "▁▂▃▄▅▆▇█"
BASELINE_COLORS = ("#999999", "#666666", "#d94801")


def load_bars(expert_share: Sequence[Sequence[float]]) -> str:
    """One bar per expert, the mean of the layers; half height is an even share."""
    means = [sum(shares) / len(shares) for shares in zip(*expert_share, strict=True)]
    num_experts = len(means)
    return "".join(BLOCKS[min(round(3.5 * share * num_experts), 7)] for share in means)


class ProgressReport:
    """A context manager that shows how training goes."""

    def __init__(self, console: Console, step: int) -> None:
        self.console, self.first_step = console, step
        self.last_line = 0.0
        self.bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TextColumn("experts {task.fields[load]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self.task = self.bar.add_task("", total=1.0, step=step, loss="-", speed="-", load="-")

    def __enter__(self) -> "ProgressReport":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def show_step(self, step: int, progress: float) -> None:
        self.bar.update(self.task, step=step, completed=progress)

    def show_record(self, record: dict[str, Any], progress: float) -> None:
        loss, speed = f"{record['loss']:.3f}", f"{record['tokens_per_second']:,.0f}"
        load = load_bars(record["expert_share"])
        self.bar.update(self.task, loss=loss, speed=speed, load=load)
        if self.console.is_terminal:
            return
        now = time.monotonic()
        first = record["step"] <= self.first_step + 1
        if first or progress == 1 or now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.console.print(
                f"step {record['step']} ({progress:.0%})  loss {loss}  {speed} tokens/s  "
                f"experts {load}",
                highlight=False,
            )


def print_results(
    console: Console, validation_loss: float, baselines: dict[str, float], sample: bytes
) -> None:
    """The loss beside what counting reaches, and a piece of generated text."""
    table = Table(title="Validation loss", title_justify="left")
    table.add_column("model")
    table.add_column("nats per byte", justify="right")
    table.add_column("bits per byte", justify="right")
    for name, loss in [*baselines.items(), ("this model", validation_loss)]:
        style = "bold" if name == "this model" else ""
        table.add_row(name, f"{loss:.3f}", f"{loss / 0.6931:.3f}", style=style)
    console.print(table)
    text = sample.decode("utf-8", errors="replace")
    console.print(Panel(Text(text), title="Sample", title_align="left"))


def plot_run(
    path: Path,
    history: list[dict[str, Any]],
    checks: list[dict[str, float]],
    baselines: dict[str, float],
) -> None:
    """Draws the loss with the baselines as lines, and each expert's load over time."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    loss_axes, load_axes = figure.subplots(2, 1, height_ratios=(3, 2))
    draw_loss(loss_axes, history, checks, baselines)
    image = draw_load(load_axes, history)
    bar = figure.colorbar(image, ax=load_axes, pad=0.01)
    bar.set_label("load (1 = even share)")
    for axes in (loss_axes, load_axes):
        axes.set_xlim(0, history[-1]["step"])
        axes.set_xlabel("step")
    figure.savefig(path, dpi=130)


def draw_loss(
    axes: Axes,
    history: list[dict[str, Any]],
    checks: list[dict[str, float]],
    baselines: dict[str, float],
) -> None:
    steps = [record["step"] for record in history]
    axes.plot(steps, [r["loss"] for r in history], color="#9ecae1", lw=1.2, label="training")
    if checks:
        axes.plot(
            [c["step"] for c in checks],
            [c["loss"] for c in checks],
            color="#08519c",
            marker="o",
            ms=3.5,
            label="validation (a part)",
        )
    for (name, loss), color in zip(baselines.items(), BASELINE_COLORS, strict=False):
        axes.axhline(loss, color=color, ls="--", lw=1)
        axes.annotate(
            f"{name} {loss:.2f}",
            (1, loss),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color=color,
        )
    lowest = min([r["loss"] for r in history] + [c["loss"] for c in checks])
    axes.set_ylim(max(min([lowest, *baselines.values()]) - 0.15, 0), 4)
    axes.set_ylabel("loss, nats per byte")
    axes.set_title("A byte-level MoE language model learns", loc="left")
    axes.legend(frameon=False, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)


def draw_load(axes: Axes, history: list[dict[str, Any]]) -> QuadMesh:
    """A heat map: a row per expert, layers from top to bottom, time to the right."""
    num_layers, num_experts = len(history[0]["expert_share"]), len(history[0]["expert_share"][0])
    rows = [
        [record["expert_share"][layer][e] * num_experts for record in history]
        for layer in range(num_layers)
        for e in range(num_experts)
    ]
    edges = [0] + [record["step"] for record in history]
    image = axes.pcolormesh(
        edges, range(len(rows) + 1), rows, cmap="RdBu_r", vmin=0, vmax=2, rasterized=True
    )
    for layer in range(1, num_layers):
        axes.axhline(layer * num_experts, color="black", lw=1)
    axes.set_yticks([(layer + 0.5) * num_experts for layer in range(num_layers)])
    axes.set_yticklabels([f"layer {layer + 1}" for layer in range(num_layers)])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_title(f"Load of the {num_experts} experts of each layer", loc="left")
    return image
