"""How one implementation is timed on a device: cold calls and windows of calls, in ms.

Cold: each call after a write larger than the L2 and a pause on the device, during which the
host enqueues the call, so that host time shows only where it is longer than the two (0.2 ms
and more). Window: calls back to back between two events. Launches under 50 us are replayed from
a CUDA graph, since back to back the host could not keep up with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Call = Callable[[], object]

FLUSH_BYTES = {"cuda": 256 << 20, "cpu": 64 << 20}
PAUSE_CYCLES = 300_000  # 0.15 ms at 1.98 GHz: jitter of the host showed in calls of 30 us
GRAPH_BELOW_MS = 0.05
GRAPH_MS = 1.0  # how much device time one graph holds


class CudaClock:
    """Device events on the current stream."""

    kind = "cuda"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flush = torch.empty(FLUSH_BYTES["cuda"], dtype=torch.uint8, device=device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def cold(self, call: Call) -> float:
        """One call with an empty L2, ms."""
        self._flush.zero_()
        torch.cuda._sleep(PAUSE_CYCLES)
        return self._between_events(call, 1)

    def window(self, call: Call, lead: int, count: int) -> float:
        """``lead`` calls untimed, then ``count`` back to back: ms per call."""
        for _ in range(lead):
            call()
        return self._between_events(call, count)

    def _between_events(self, call: Call, count: int) -> float:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / count

    def host(self, call: Call, count: int) -> float:
        """Host time, ms per call, of a burst that the device keeps up with."""
        self.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        elapsed = time.perf_counter() - start
        self.synchronize()
        return elapsed / count * 1e3

    def replayed(self, call: Call, ms: float) -> tuple[Call, int]:
        """A graph of several calls, and how many; raises RuntimeError where it cannot be had."""
        count = max(1, min(200, int(GRAPH_MS / max(ms, 1e-3))))
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is lazily made must exist before the capture
            call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(count):
                call()
        return graph.replay, count

    def peak_bytes(self, call: Call) -> tuple[object, int]:
        """The call's result, and the most memory it held beyond what was there before."""
        self.synchronize()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        result = call()
        self.synchronize()
        return result, torch.cuda.max_memory_allocated(self.device) - before


class WallClock:
    """The CPU: calls are over when they return."""

    kind = "cpu"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flush = torch.empty(FLUSH_BYTES["cpu"], dtype=torch.uint8)

    def synchronize(self) -> None:
        """Nothing runs behind our back."""

    def cold(self, call: Call) -> float:
        self._flush.zero_()
        return self.host(call, 1)

    def window(self, call: Call, lead: int, count: int) -> float:
        for _ in range(lead):
            call()
        return self.host(call, count)

    def host(self, call: Call, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count * 1e3

    def replayed(self, call: Call, ms: float) -> tuple[Call, int]:
        return call, 1

    def peak_bytes(self, call: Call) -> tuple[object, int]:
        return call(), 0


def make_clock(device: torch.device) -> CudaClock | WallClock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else WallClock(device)
