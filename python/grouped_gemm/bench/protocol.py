"""The protocol: check, then time all implementations of a block interleaved.

1. Every result is checked against a reference; a wrong one is refused, not timed.
2. Cold: rounds A B C A B C, each call after a write larger than the L2; untimed rounds first.
3. Steady: rounds of windows (0.25 s by default) of back-to-back calls, there and back again in
   turn, each after an untimed lead-in, since the chip's clock follows the power that a kernel
   draws; untimed rounds first.
Untimed rounds: after setting up and checking, the chip's clock takes its time to follow the new
load's power. On an H100 (2026-11-22) the first cold rounds of products differed by up to 9 % from
those that followed, and the first window of dense was 3 % faster than the second. On an H200
(2026-11-23) the clock fell to 1.1-1.3 GHz when windows followed cold calls, and took 0.4 s to
settle at 1.4: the case whose window came first was told up to 10 % too slow.
Slow implementations get fewer repetitions; what was thinned stands in the notes.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from . import checks
from .cases import GEMM_OPS, Case
from .clock import GRAPH_BELOW_MS, CudaClock, WallClock

HOST_CALLS = 100  # calls in a burst of a host case
HOST_ROUNDS = 20
HOST_SECONDS = 5.0  # of all bursts together; at least MIN_COLD rounds are made
MIN_COLD = 3
EXPECTED = (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError)


@dataclass(frozen=True)
class Budget:
    """How often to repeat. ``cold_seconds`` caps one implementation's cold calls together."""

    cold_calls: int = 10
    cold_seconds: float = 0.3
    windows: int = 3
    window_seconds: float = 0.25
    lead_seconds: float = 0.05  # untimed: before each window, and of each call in an untimed round
    settle_seconds: float = 0.2  # untimed cold rounds of a block together
    heavy_settle_seconds: float = 0.6  # untimed rounds before the windows of products
    heat_seconds: float = 5.0  # products before anything is timed: a cold chip leaks less power

    def with_windows(self, windows: int) -> Budget:
        return replace(self, windows=windows)

    def of_window(self, seconds: float) -> Budget:
        """For sweeps over calls of microseconds: lead-ins shrink with the windows."""
        if not seconds > 0:
            raise ValueError(f"bench: --window got {seconds}; needs seconds; say 0.02")
        share = min(1.0, seconds / self.window_seconds)
        return replace(
            self,
            window_seconds=seconds,
            lead_seconds=self.lead_seconds * share,
            settle_seconds=self.settle_seconds * share,
            heavy_settle_seconds=self.heavy_settle_seconds * share,
        )


QUICK = Budget(
    cold_calls=6,
    cold_seconds=0.15,
    windows=2,
    settle_seconds=0.1,
    heavy_settle_seconds=0.0,
    heat_seconds=1.0,
)
DEFAULT = Budget()
FULL = Budget(cold_calls=20, cold_seconds=1.0, windows=5, lead_seconds=0.1)
CPU = Budget(5, 0.3, 3, window_seconds=0.1, lead_seconds=0.0, settle_seconds=0.0, heat_seconds=0.0)


@dataclass
class Timing:
    """What was measured of one implementation in one case; all samples, in ms per call."""

    cold_ms: list[float] = field(default_factory=list)
    steady_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    refused: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Contender:
    """One implementation of one case: a call, and the operands its result is checked with."""

    case: Case
    peer: str
    call: Callable[[], object]
    operands: object
    checked: bool = True  # False for ceilings, which compute something else
    graph: bool = True  # whether short launches may be replayed from a graph
    answer: Callable | None = None  # (case, operands, result) -> the result in the checked form
    narrow_sums: bool = False  # sums in the element type: a wider bound


def measure(
    contenders: list[Contender], clock: CudaClock | WallClock, budget: Budget
) -> list[Timing]:
    """One Timing for each contender, in their order."""
    timings = [Timing() for _ in contenders]
    for contender, timing in zip(contenders, timings, strict=True):
        _check(contender, timing, clock)
    runnable = [(c, t) for c, t in zip(contenders, timings, strict=True) if not t.refused]
    gc.collect()
    gc.disable()
    try:
        hosts = [(c, t) for c, t in runnable if c.case.op == "host"]
        _host(hosts, clock)
        others = [(c, t) for c, t in runnable if c.case.op != "host"]
        _cold(others, clock, budget)
        _steady(others, clock, budget)
    finally:
        gc.enable()
    return timings


def _check(contender: Contender, timing: Timing, clock) -> None:
    """Runs once to warm up, then into poisoned memory, and refuses a wrong result."""
    try:
        contender.operands.reset()
        first = contender.call()
        clock.synchronize()
        if contender.checked:
            parts = first if isinstance(first, tuple | list) else (first,)
            sizes = [part.nbytes for part in parts if isinstance(part, torch.Tensor)]
            del first, parts  # its memory is poisoned too
            checks.poison(sizes, clock.device)
        contender.operands.reset()
        result, timing.peak_bytes = clock.peak_bytes(contender.call)
        if contender.checked:
            if contender.answer is not None:
                result = contender.answer(contender.case, contender.operands, result)
            wrong = checks.complaint(
                contender.case, contender.operands, result, contender.narrow_sums
            )
            timing.refused = wrong and f"wrong: {wrong}"
    except torch.OutOfMemoryError:
        timing.refused = "out of memory"
    except caught(contender.peer) as error:
        timing.refused = f"failed: {in_a_line(error)}"


def caught(peer: str) -> type[Exception] | tuple[type[Exception], ...]:
    """What a peer may raise without ending the run: anything, but ours only what operators raise.

    Compilers of foreign peers raise classes of their own, AssertionError and ImportError.
    """
    return EXPECTED if peer == "ours" else Exception


def in_a_line(error: BaseException, most: int = 200) -> str:
    """An exception's first line, with the class where that is not one of the usual."""
    lines = str(error).strip().splitlines()
    if type(error) in EXPECTED and lines:
        return lines[0][:most]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:most]


def _cold(runnable, clock, budget: Budget) -> None:
    counts = []
    for contender, timing in runnable:
        first = clock.cold(contender.call) / 1e3
        count = int(budget.cold_seconds / max(first, 1e-9))
        count = max(min(budget.cold_calls, count), min(MIN_COLD, budget.cold_calls))
        if count < budget.cold_calls:
            timing.notes.append(f"{count} cold calls instead of {budget.cold_calls}")
        counts.append(count)
    settled = time.monotonic() + budget.settle_seconds
    while time.monotonic() < settled and max(counts, default=0) == budget.cold_calls:
        for (contender, _), count in zip(runnable, counts, strict=True):
            if count == budget.cold_calls:  # untimed: clocks settle after the checks
                clock.cold(contender.call)
    for turn in range(budget.cold_calls):
        for (contender, timing), count in zip(runnable, counts, strict=True):
            # a slow one's few calls are spread over all rounds
            if (turn + 1) * count // budget.cold_calls > turn * count // budget.cold_calls:
                timing.cold_ms.append(clock.cold(contender.call))


def _steady(runnable, clock, budget: Budget) -> None:
    if not runnable or not budget.windows:
        return
    calls = [_steady_call(contender, timing, clock) for contender, timing in runnable]
    for call, per_call, ms in calls * _untimed_rounds(runnable, budget):
        clock.window(call, 0, max(1, int(budget.lead_seconds / (ms * per_call / 1e3))))  # untimed
    for turn in range(budget.windows):
        order = range(len(runnable))
        for index in order if turn % 2 == 0 else reversed(order):
            timing = runnable[index][1]
            call, per_call, ms = calls[index]
            seconds = ms * per_call / 1e3
            if turn and turn == budget.windows - 1 and seconds > budget.window_seconds:
                timing.notes.append(f"{turn} windows instead of {budget.windows}")
                continue  # a call longer than a window: one window fewer
            lead = int(budget.lead_seconds / seconds)
            count = max(1, math.ceil(budget.window_seconds / seconds))
            timing.steady_ms.append(clock.window(call, lead, count) / per_call)


def _untimed_rounds(runnable, budget: Budget) -> int:
    """Of windows as short as a lead-in."""
    if not budget.lead_seconds:
        return 0
    is_heavy = any(contender.case.op in GEMM_OPS for contender, _ in runnable)
    settle = budget.heavy_settle_seconds if is_heavy else 0.0
    return max(1, math.ceil(settle / (budget.lead_seconds * len(runnable))))


def _steady_call(contender: Contender, timing: Timing, clock) -> tuple[Callable, int, float]:
    """(call, how many of the case's calls it makes, ms of one of them)."""
    ms = max(min(timing.cold_ms), 1e-4)
    if ms < GRAPH_BELOW_MS and clock.kind == "cuda":
        if contender.graph:
            try:
                return *clock.replayed(contender.call, ms), ms
            except RuntimeError as error:
                timing.notes.append(f"not replayed from a graph: {in_a_line(error, 120)}")
        else:
            timing.notes.append("not replayed from a graph")
    return contender.call, 1, ms


def _host(runnable, clock) -> None:
    start = time.monotonic()
    for turn in range(HOST_ROUNDS + 2 if runnable else 0):
        if turn >= MIN_COLD + 2 and time.monotonic() - start > HOST_SECONDS:
            runnable[0][1].notes.append(f"{turn - 2} rounds of bursts instead of {HOST_ROUNDS}")
            return
        for contender, timing in runnable:
            ms = clock.host(contender.call, HOST_CALLS)
            if turn >= 2:  # warm
                timing.host_ms.append(ms)
