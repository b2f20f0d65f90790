"""Whether fp32 products may use tf32 tensor cores: PyTorch's own switch, and no other.

``torch.set_float32_matmul_precision("high")``, ``torch.backends.cuda.matmul.allow_tf32`` and
``torch.backends.cuda.matmul.fp32_precision`` all set it. Read at each call, in the backward too.
"""

from __future__ import annotations

import torch

# The newer attribute can be read whichever of the three was used; the older one then raises.
_matmul = torch.backends.cuda.matmul
if hasattr(_matmul, "fp32_precision"):

    @torch.compiler.assume_constant_result  # a compiled graph is guarded by this switch
    def _matmul_takes_tf32() -> bool:
        return _matmul.fp32_precision == "tf32"

else:

    @torch.compiler.assume_constant_result
    def _matmul_takes_tf32() -> bool:
        return _matmul.allow_tf32


def allows_tf32(operand: torch.Tensor) -> bool:
    """Whether a grouped GEMM of ``operand`` may round its operands to tf32."""
    return operand.dtype is torch.float32 and operand.is_cuda and _matmul_takes_tf32()
