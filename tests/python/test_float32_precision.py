"""float32 obeys PyTorch's matmul precision, in all three spellings, eager and compiled.

"highest" means full float32; "high" and "tf32" allow TensorFloat-32 (10 bits of mantissa), which
an implementation need not use. No spelling may raise, break a graph, or change half precision.
"""

import grouped_gemm
import pytest
import torch
from support import reference
from support.compare import assert_close_elementwise, assert_gemm_close
from support.shapes import random_operands

SIZES = [3, 0, 17, 1]
NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def by_name(precise):
    torch.set_float32_matmul_precision("highest" if precise else "high")


def by_allow_tf32(precise):
    torch.backends.cuda.matmul.allow_tf32 = not precise


def by_fp32_precision(precise):
    if not NEWER:
        pytest.skip("this torch has no fp32_precision")
    torch.backends.cuda.matmul.fp32_precision = "ieee" if precise else "tf32"


SPELLINGS = [by_name, by_allow_tf32, by_fp32_precision]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precise", [True, False], ids=["full", "tf32 allowed"])
@pytest.mark.parametrize("spell", SPELLINGS, ids=lambda f: f.__name__)
def test_every_spelling_is_obeyed(device, spell, precise, compiled, restore_float32_precision):
    torch._dynamo.reset()
    a, b = random_operands(SIZES, 64, 16, torch.float32, device, requires_grad=True)
    sizes = torch.tensor(SIZES, device=device)
    function = grouped_gemm.gmm
    if compiled:
        function = torch.compile(grouped_gemm.gmm, fullgraph=True, backend="aot_eager")
    spell(precise)
    y = function(a, b, sizes)
    dy = torch.randn(y.shape).to(device)
    y.backward(dy)
    if precise or device.type == "cpu":
        assert_gemm_close(y, reference.gmm, a, b, SIZES, 64)
        assert_gemm_close(a.grad, reference.gmm_dgrad, dy, b, SIZES, 16)
        return
    expected, magnitude = (reference.gmm(f(a), f(b), SIZES) for f in (torch.Tensor.detach, abs))
    assert_close_elementwise(y, expected, 2**-9 * magnitude)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.skipif(not NEWER, reason="this torch has no fp32_precision")
def test_the_setting_for_all_backends_is_read_too(device, compiled, restore_float32_precision):
    torch._dynamo.reset()
    torch.backends.fp32_precision = "ieee"
    a, b = random_operands(SIZES, 64, 16, torch.float32, device)
    function = grouped_gemm.gmm
    if compiled:
        function = torch.compile(grouped_gemm.gmm, fullgraph=True, backend="aot_eager")
    y = function(a, b, torch.tensor(SIZES, device=device))
    assert_gemm_close(y, reference.gmm, a, b, SIZES, 64)


@pytest.mark.parametrize("spell", SPELLINGS, ids=lambda f: f.__name__)
def test_the_setting_may_change_between_calls(device, spell, restore_float32_precision):
    a, b = random_operands(SIZES, 64, 16, torch.float32, device)
    for precise in (True, False, True):
        spell(precise)
        y = grouped_gemm.gmm(a, b, torch.tensor(SIZES))
        if precise:
            assert_gemm_close(y, reference.gmm, a, b, SIZES, 64)
