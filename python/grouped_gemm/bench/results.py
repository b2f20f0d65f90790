"""What a run leaves: JSON with every sample, statistics over them, and the comparison of two.

Everything that is shown (tables, README, plots) is computed from this and nothing else.
"""

from __future__ import annotations

import json
import math
import pathlib
import re
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from .cases import Case
from .protocol import Timing

FORMAT = 1
MODES = ("cold", "steady", "host")
CEILINGS = ("dense", "copy", "x * 2")  # peers that bound the others
# Smaller changes are never called a regression: two runs on one H100 (2026-11-22, --quick) moved
# single cells of unchanged kernels by up to 2.4 %, their geometric means by up to 0.7 %.
LEAST_CHANGE = 0.03
_PATH = re.compile(r"(?<![\w./*?\]])/(?:[\w.+@~-]+/)*([\w.+@~-]+)/?")


@dataclass
class Row:
    """One case: its work, its floors in ms, and a Timing for each implementation."""

    case: Case
    flops: int
    bytes: int
    timings: dict[str, Timing] = field(default_factory=dict)
    floor_ms: dict[str, float | None] = field(default_factory=dict)  # by mode
    bridges: dict[str, Timing] = field(default_factory=dict)  # peer -> dense in its process
    left_out: dict[str, str] = field(default_factory=dict)  # peer -> why
    remarks: dict[str, str] = field(default_factory=dict)  # peer -> what is different about it
    plans: dict[str, str] = field(default_factory=dict)  # peer -> how it goes about the case
    iterations: int = 0  # of sinkhorn, as ours reports them


@dataclass
class Results:
    """One run of the instrument on one machine."""

    environment: dict
    ceilings: dict[str, dict] = field(default_factory=dict)  # name -> {work, unit, timing}
    rows: list[Row] = field(default_factory=list)
    thinned: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # peer -> why it did not run
    seconds: float = 0.0

    def write(self, path: str | pathlib.Path) -> None:
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **_plain(asdict(self))}, separators=(",", ":"))
        path.write_text(text.replace('{"case":', '\n{"case":') + "\n")

    @classmethod
    def read(cls, path: str | pathlib.Path) -> Results:
        try:
            data = json.loads(pathlib.Path(path).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(
                f"bench: {path} got {error}; needs a JSON file of `bench --json`; run that first"
            ) from None
        if data.pop("format", None) != FORMAT:
            raise ValueError(f"bench: {path} got another format; needs format {FORMAT}; run again")
        data["rows"] = [_row_from(row) for row in data["rows"]]
        return cls(**data)

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.case.name == name), None)


def _row_from(data: dict) -> Row:
    data["case"] = Case(**data["case"])
    for key in ("timings", "bridges"):
        data[key] = {name: Timing(**timing) for name, timing in data[key].items()}
    return Row(**data)


def _plain(value):
    """Five digits, which are beyond any clock here and keep files small; no machine's paths."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def without_paths(text: str) -> str:
    """Absolute paths, which importers and compilers put into reasons, cut to their last part."""
    return _PATH.sub(lambda found: found.group(1), text)


# ---- statistics --------------------------------------------------------------


def samples(timing: Timing | None, mode: str) -> list[float]:
    return getattr(timing, f"{mode}_ms") if timing and not timing.refused else []


def median_ms(timing: Timing | None, mode: str) -> float | None:
    values = samples(timing, mode)
    return statistics.median(values) if values else None


def spread(values: list[float]) -> float:
    """The distance between the quartiles, as a share of the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def speed_ratio(row: Row, peer: str, other: str, mode: str) -> float | None:
    """How many times as fast ``peer`` is as ``other``; "floor" counts as one, ratio <= 1.

    A peer of another process is compared through dense, timed in both.
    """
    mine = _bridged_ms(row, peer, mode)
    if other == "floor":
        theirs = row.floor_ms.get(mode)
    else:
        theirs = _bridged_ms(row, other, mode)
    return theirs / mine if mine and theirs else None


def _bridged_ms(row: Row, peer: str, mode: str) -> float | None:
    ms = median_ms(row.timings.get(peer), mode)
    if ms is None or peer not in row.bridges:
        return ms
    there, here = median_ms(row.bridges[peer], mode), _ceiling_ms(row, mode)
    return ms * here / there if there and here else ms


def _ceiling_ms(row: Row, mode: str) -> float | None:
    for name in CEILINGS:
        ms = median_ms(row.timings.get(name), mode)
        if ms:
            return ms
    return None


def rate(row: Row, peer: str, mode: str) -> float | None:
    """FLOP/s where the case multiplies, else bytes/s."""
    ms = _bridged_ms(row, peer, mode)
    work = row.flops or row.bytes
    return work / ms * 1e3 if ms and work else None


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of those that exist; None if none does."""
    logs = [math.log(v) for v in values if v]
    return math.exp(sum(logs) / len(logs)) if logs else None


# ---- comparison --------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One cell of two runs. ``ratio`` > 1: the second run is slower."""

    case: str
    mode: str
    before_ms: float
    after_ms: float
    ratio: float
    allowed: float

    @property
    def verdict(self) -> str:
        if self.ratio > 1 + self.allowed:
            return "slower"
        return "faster" if self.ratio < 1 - self.allowed else "same"


def compare(before: Results, after: Results, peer: str = "ours", relative: bool = False):
    """(changes cell by cell, problems that no figure shows: refused or missing cells).

    A change counts beyond the sum of both runs' spreads, at least 3 %. ``relative``: times
    divided by the run's own ceiling (dense, copy), for runs of different machines.
    """
    changes, problems = [], []
    for old in before.rows:
        new = after.row(old.case.name)
        was = old.timings.get(peer)
        if was is None or was.refused:
            continue
        now = new.timings.get(peer) if new else None
        if now is None or now.refused:
            reason = now.refused if now else "not measured"
            problems.append(f"{old.case.name}: {peer} {reason}")
            continue
        for mode in MODES:
            if samples(was, mode) and samples(now, mode):
                changes.append(_change(old, new, peer, mode, relative))
    return changes, problems


def _change(old: Row, new: Row, peer: str, mode: str, relative: bool) -> Change:
    was, now = old.timings[peer], new.timings[peer]
    before, after = median_ms(was, mode), median_ms(now, mode)
    ratio = after / before
    if relative:
        there, here = _ceiling_ms(old, mode), _ceiling_ms(new, mode)
        ratio *= there / here if there and here else 1.0
    allowed = spread(samples(was, mode)) + spread(samples(now, mode))
    return Change(old.case.name, mode, before, after, ratio, max(allowed, LEAST_CHANGE))
