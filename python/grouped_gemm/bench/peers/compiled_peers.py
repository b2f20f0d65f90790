"""``compile``: PyTorch's routing formula through torch.compile."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..cases import ROUTE_OPS, Case
from ..routing import torch_call


class TorchCompiled:
    name = "compile"

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, case: Case) -> str | None:
        return None if case.op in ROUTE_OPS else "only the routing formula is compiled"

    def build(self, case: Case, operands) -> Callable[[], object]:
        call = torch_call(case, operands, lambda function: torch.compile(function, dynamic=False))
        call()  # compiles
        return call
