"""What this machine can do at most, measured in the same run as everything else.

Dense products of each dtype at one large shape, copy and read rates of one large buffer.
(At a case's own shape and byte count the peers ``dense`` and ``copy`` measure them again,
interleaved with the case.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from .cases import Case
from .protocol import Budget, Contender, Timing, measure
from .results import median_ms

SIDE = {"cuda": 8192, "cpu": 1024}  # M = N = K of the dense products
BUFFER_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_ANY = Case("ceiling", "fwd", "bf16", "default")


class _Nothing:
    def reset(self) -> None:
        """There are no operands to restore."""


def _dense_calls(device: torch.device) -> dict[str, Callable]:
    side = SIDE[device.type]
    wide = torch.randn(side, side, device=device)
    calls = {}
    names = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if device.type == "cpu":
        names = {"fp32": torch.float32}
    for name, dtype in names.items():
        x = wide.to(dtype)
        calls[f"dense {name}"] = lambda x=x: torch.mm(x, x)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        x8, one = wide.to(torch.float8_e4m3fn), torch.ones((), device=device)
        calls["dense fp8"] = lambda: torch._scaled_mm(
            x8, x8.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        )
    return calls


def _memory_calls(device: torch.device) -> dict[str, Callable]:
    half = torch.rand(BUFFER_BYTES[device.type] // 8, device=device)
    other = torch.empty_like(half)
    whole = torch.rand(BUFFER_BYTES[device.type] // 4, device=device)
    return {
        "copy by a kernel": lambda: torch.neg(half, out=other),
        "copy by copy_": lambda: other.copy_(half),
        "read by a sum": lambda: whole.sum(),
    }


def measure_ceilings(clock, budget: Budget) -> dict[str, dict]:
    """name -> {work, unit, timing}; work in FLOPs or bytes of one call."""
    device = clock.device
    work = {}
    contenders = []
    groups = ((_dense_calls, 2 * SIDE[device.type] ** 3, "FLOP"),
              (_memory_calls, BUFFER_BYTES[device.type], "byte"))  # fmt: skip
    for calls_of, amount, unit in groups:
        for name, call in calls_of(device).items():
            work[name] = (amount, unit)
            contenders.append(Contender(_ANY, name, call, _Nothing(), checked=False, graph=False))
    _heat(contenders[0].call, clock, budget.heat_seconds)
    timings = measure(contenders, clock, budget)
    return {
        c.peer: {"work": work[c.peer][0], "unit": work[c.peer][1], "timing": asdict(t)}
        for c, t in zip(contenders, timings, strict=True)
    }


def _heat(product: Callable, clock, seconds: float) -> None:
    """Products until the chip is as warm as it will be: two runs in a row start alike."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        clock.window(product, 0, 20)


def ceiling_rate(ceilings: dict[str, dict], prefix: str, mode: str) -> float | None:
    """The best rate per second among the ceilings whose names begin with ``prefix``."""
    rates = []
    for name, entry in ceilings.items():
        ms = median_ms(Timing(**entry["timing"]), mode)
        if name.startswith(prefix) and ms:
            rates.append(entry["work"] / ms * 1e3)
    return max(rates, default=None)
