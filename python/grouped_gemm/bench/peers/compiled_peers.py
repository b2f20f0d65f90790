"""``compile`` and ``compile-fusable``: PyTorch's routing formulas through torch.compile.

E and topK are constants of a compiled function, T is not: the grid of 48 sizes takes 12
compilations of each pass instead of 48, of some seconds each. ``fusable`` writes top-k as topK
maxima and the scatter as one-hot rows, which no framework does, but a compiler fuses; it is
measured where it is asked for by name.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace

import torch

from .. import routing
from ..cases import ROUTE_OPS, Case

COMPILED_AT = 16384  # T whose sizes the compiler plans for


class TorchCompiled:
    def __init__(self, name: str = "compile", formulas=routing.PLAIN, backend="inductor") -> None:
        self.name, self.formulas, self.backend = name, formulas, backend
        self._compiled: dict[tuple[str, int, int], Callable] = {}

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return None if case.op in ROUTE_OPS else "only the routing formula is compiled"

    def remark(self, case: Case) -> str:
        return f"compiled for every T, at {COMPILED_AT}; E and topK fixed"

    def build(self, case: Case, operands) -> Callable[[], object]:
        key = case.op, case.experts, case.topk
        if key not in self._compiled:
            compiled = torch.compile(_another(self.formulas[case.op]), backend=self.backend)
            first = replace(case, tokens=COMPILED_AT)
            _call(compiled, first, routing.route_operands(first, operands.logits.device))()
            self._compiled[key] = compiled
        call = _call(self._compiled[key], case, operands)
        call()
        return call


class TorchCompiledFusable(TorchCompiled):
    asked_for = True  # measured with --peer compile-fusable only

    def __init__(self, backend="inductor") -> None:
        super().__init__("compile-fusable", routing.FUSABLE, backend)


def _call(compiled: Callable, case: Case, operands) -> Callable[[], object]:
    values = routing.arguments(case, operands)
    for value in values:
        if isinstance(value, torch.Tensor):
            torch._dynamo.mark_dynamic(value, 0)
    return lambda: compiled(*values)


def _another(function: Callable) -> Callable:
    """The function with code of its own: the compiler counts recompilations by the code, and
    after a few of them runs it uncompiled."""
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, function.__name__)
