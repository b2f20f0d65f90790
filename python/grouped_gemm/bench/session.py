"""A whole run: block after block within its time, and nothing left out in silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from .cases import GEMM_OPS, Case
from .ceilings import ceiling_rate, measure_ceilings
from .clock import make_clock
from .floors import bytes_moved, floor_ms, flops
from .operands import Operands
from .peers import Peer, remark_of, trait
from .protocol import Budget, Contender, Timing, caught, in_a_line, measure
from .results import Results, Row, median_ms
from .worker import WorkerPeer

Report = Callable[[str, int, int], None]  # block, done, of


@dataclass
class Pace:
    """Keeps a run within ``limit`` seconds: fewer windows first, then blocks left out."""

    limit: float | None
    budget: Budget
    start: float = field(default_factory=time.monotonic)
    measured: float = 0.0  # seconds that blocks took
    predicted: float = 0.0  # seconds that were predicted for them

    def __post_init__(self) -> None:
        # as if a sixth of the run had gone as predicted: the first block must not decide alone
        self.measured = self.predicted = (self.limit or 0) / 6

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def predict(self, contenders: int, windows: int) -> float:
        lead = self.budget.lead_seconds
        return contenders * (windows * (self.budget.window_seconds + lead) + lead + 0.1)

    def windows(self, to_come: int) -> int:
        """Windows that the rest (``to_come`` contenders) can afford; 0: no time is left."""
        if self.limit is None:
            return self.budget.windows
        left = self.limit - self.elapsed()
        factor = max(0.5, self.measured / self.predicted) if self.predicted else 1.0
        for windows in range(self.budget.windows, 0, -1):
            if factor * self.predict(to_come, windows) <= left:
                return windows
        return 1 if left > 0 else 0

    def learn(self, seconds: float, contenders: int, windows: int) -> None:
        self.measured += seconds
        self.predicted += self.predict(contenders, windows)


def blocks_of(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases that are measured interleaved, in order."""
    blocks: dict[str, list[Case]] = {}
    for case in cases:
        blocks.setdefault(case.block, []).append(case)
    return list(blocks.values())


class Session:
    """Measures ``cases`` with ``peers`` on one device into ``results``."""

    def __init__(self, device: torch.device, peers: list[Peer], budget: Budget, results: Results):
        self.clock = make_clock(device)
        self.operands = Operands(device)
        self.peers = [p for p in peers if not trait(p, "process")]
        self.workers = [WorkerPeer(p, device) for p in peers if trait(p, "process")]
        self.budget, self.results = budget, results

    def run(self, cases: list[Case], limit: float | None, report: Report) -> None:
        pace = Pace(limit, self.budget)
        blocks = blocks_of(cases)
        counts = [self._count(block) for block in blocks]
        report("warming up, ceilings", 0, len(blocks))
        few = self.budget.with_windows(min(2, self.budget.windows))
        thinned: dict[str, list[str]] = {}
        self.results.ceilings = measure_ceilings(self.clock, few)
        try:
            for index, block in enumerate(blocks):
                report(block[0].block, index, len(blocks))
                windows = pace.windows(sum(counts[index:]))
                if windows == 0:
                    names = ", ".join(case.name for case in block)
                    self.results.thinned.append(f"left out for lack of time: {names}")
                    continue
                if windows < self.budget.windows:
                    note = f"{windows} windows instead of {self.budget.windows} for lack of time"
                    thinned.setdefault(note, []).append(block[0].block)
                start = time.monotonic()
                try:
                    self.block(block, self.budget.with_windows(windows))
                except RuntimeError as error:  # a broken device breaks the rest too, but not this
                    self.results.thinned.append(f"{block[0].block}: stopped: {in_a_line(error)}")
                pace.learn(time.monotonic() - start, counts[index], windows)
            report("", len(blocks), len(blocks))
        finally:
            for worker in self.workers:
                worker.close()
                if worker.reason is not None:
                    self.results.absent.setdefault(worker.peer.name, worker.reason)
        self.results.thinned += [f"{note}: {', '.join(names)}" for note, names in thinned.items()]
        self._collect_notes()
        self.results.seconds = pace.elapsed()

    def _count(self, block: list[Case]) -> int:
        """Contenders of a block; a worker times dense beside its peer."""
        count = 0
        for peer in self.peers:
            supported = sum(peer.supports(case) is None for case in block)
            count += min(supported, 1) if trait(peer, "ceiling") else supported
        for worker in self.workers:
            supported = sum(worker.peer.supports(case) is None for case in block)
            count += supported + (supported > 0)
        return count

    def block(self, block: list[Case], budget: Budget) -> None:
        """Measures one block and adds its rows to the results."""
        rows = {case.name: Row(case, flops(case), bytes_moved(case)) for case in block}
        self.results.rows += rows.values()
        precision = torch.get_float32_matmul_precision()
        if block[0].dtype == "tf32":
            torch.set_float32_matmul_precision("high")
        try:
            self._in_process(block, rows, budget)
            for worker in self.workers:
                if self.clock.kind == "cuda":
                    torch.cuda.empty_cache()
                worker.measure(rows, budget)
        finally:
            torch.set_float32_matmul_precision(precision)
        for row in rows.values():
            self._floors(row)

    def _in_process(self, block: list[Case], rows: dict[str, Row], budget: Budget) -> None:
        contenders, homes = [], []  # a contender's timing goes to the rows of its home
        try:
            made = {case.name: self.operands.of(case) for case in block}
        except torch.OutOfMemoryError:
            self.operands.drop()
            for row in rows.values():
                row.left_out = {peer.name: "operands need more memory" for peer in self.peers}
            return
        for case in block:
            self._count_iterations(case, made[case.name], rows[case.name])
        for peer in self.peers:
            shared: list[Case] = []  # the cases that one ceiling serves
            for case in block:
                reason = peer.supports(case)
                if reason is not None:
                    rows[case.name].left_out[peer.name] = reason
                elif trait(peer, "ceiling") and shared:
                    shared.append(case)
                else:
                    try:
                        contenders.append(_contender(peer, case, made[case.name]))
                    except caught(peer.name) as error:
                        refused = f"failed to build: {in_a_line(error)}"
                        rows[case.name].timings[peer.name] = Timing(refused=refused)
                        continue
                    homes.append(shared := [case])
                if reason is None:
                    self._describe(peer, rows[case.name])
        for contender, home, timing in zip(
            contenders, homes, measure(contenders, self.clock, budget), strict=True
        ):
            for case in home:
                rows[case.name].timings[contender.peer] = timing

    def _count_iterations(self, case: Case, operands, row: Row) -> None:
        """How often sinkhorn goes over its input: its bytes, and so its floor, follow."""
        for peer in self.peers:
            if case.op == "sinkhorn" and hasattr(peer, "iterations"):
                row.iterations = peer.iterations(operands)
                row.bytes = bytes_moved(case, row.iterations)

    def _describe(self, peer: Peer, row: Row) -> None:
        """What the peer says of itself: how it differs, and which path it takes."""
        remark = remark_of(peer, row.case)
        if row.iterations and hasattr(peer, "iterations"):
            remark = (
                f"{row.case.name}: {row.iterations} iterations; the floor is one reading of the "
                "input in each, at copy speed"
            )
        if remark:
            row.remarks[peer.name] = remark
        if hasattr(peer, "explain"):
            row.plans[peer.name] = peer.explain(row.case, self.clock.device)

    def _floors(self, row: Row) -> None:
        for mode in ("cold", "steady"):
            copy = ceiling_rate(self.results.ceilings, "copy", mode)
            copy_ms = median_ms(row.timings.get("copy"), mode)
            if copy_ms and row.case.op not in GEMM_OPS:  # of the case's own byte count
                copy = bytes_moved(row.case) / copy_ms * 1e3
            dense_ms = median_ms(row.timings.get("dense"), mode)
            row.floor_ms[mode] = floor_ms(row.case, dense_ms, copy, row.iterations)

    def _collect_notes(self) -> None:
        """One line for each kind of note, with how many cells it holds for."""
        counts: dict[str, int] = {}
        for row in self.results.rows:
            for name, timing in row.timings.items():
                for note in timing.notes:
                    key = f"{name}: {note}"
                    counts[key] = counts.get(key, 0) + 1
        self.results.thinned += [f"{key} ({count} cells)" for key, count in counts.items()]


def _contender(peer: Peer, case: Case, operands) -> Contender:
    return Contender(
        case,
        peer.name,
        peer.build(case, operands),
        operands,
        checked=not trait(peer, "ceiling"),
        graph=trait(peer, "graph", True),
        answer=trait(peer, "answer", None),
        narrow_sums=trait(peer, "narrow_sums"),
    )
