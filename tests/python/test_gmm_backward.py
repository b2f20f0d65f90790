"""gmm backward: both gradients by autograd, and the same passes called by themselves."""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import LAYOUTS, GuardedBuffer
from support.compare import assert_all_zero, assert_gemm_close, assert_same_bits, wgrad_depth
from support.shapes import (
    GEMM_DTYPES,
    GROUPS,
    LONG_MATRIX_SHAPES,
    MATRIX_SHAPES,
    random_operands,
)

ODD_SIZES = [3, 0, 17, 1]


def check_gradients(a, b, dy, sizes, trans_b):
    assert a.grad.dtype == a.dtype and b.grad.dtype == b.dtype
    assert_gemm_close(a.grad, reference.gmm_dgrad, dy, b, sizes, dy.shape[1], trans_b)
    depth = wgrad_depth(sizes)
    assert_gemm_close(b.grad, reference.gmm_wgrad, a, dy, sizes, depth, trans_b)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_both_gradients_follow_the_groups(device, sizes, dtype, trans_b):
    a, b = random_operands(sizes, 24, 40, dtype, device, trans_b, requires_grad=True)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes), trans_b)
    dy = torch.randn(y.shape).to(dtype).to(device)
    y.backward(dy)
    check_gradients(a, b, dy, sizes, trans_b)


@pytest.mark.small
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("shape", MATRIX_SHAPES + LONG_MATRIX_SHAPES, ids=str)
def test_gradients_of_any_k_and_n(device, shape, trans_b):
    a, b = random_operands(ODD_SIZES, *shape, torch.bfloat16, device, trans_b, requires_grad=True)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES), trans_b)
    dy = torch.randn(y.shape).to(y.dtype).to(device)
    y.backward(dy)
    check_gradients(a, b, dy, ODD_SIZES, trans_b)


@pytest.mark.parametrize("wants", [(True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_the_gradients_asked_for_are_given(device, wants, dtype):
    a, b = random_operands(ODD_SIZES, 24, 16, dtype, device)
    a.requires_grad_(wants[0])
    b.requires_grad_(wants[1])
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
    dy = torch.randn(y.shape).to(dtype).to(device)
    y.backward(dy)
    assert (a.grad is not None, b.grad is not None) == wants
    if wants[0]:
        assert_gemm_close(a.grad, reference.gmm_dgrad, dy, b, ODD_SIZES, 16)
    if wants[1]:
        assert_gemm_close(b.grad, reference.gmm_wgrad, a, dy, ODD_SIZES, wgrad_depth(ODD_SIZES))


def test_without_any_gradient_wanted_the_result_has_none(device):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device)
    assert not grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES)).requires_grad
    with torch.no_grad():
        y = grouped_gemm.gmm(a.requires_grad_(), b, torch.tensor(ODD_SIZES))
    assert not y.requires_grad


@pytest.mark.small
@pytest.mark.parametrize("layout", [*LAYOUTS, "expanded"])
def test_the_incoming_gradient_may_be_unaligned_or_not_contiguous(device, layout):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.bfloat16, device, requires_grad=True)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
    if layout == "expanded":
        dy = torch.ones((), dtype=y.dtype, device=device).expand(y.shape)
    else:
        dy = LAYOUTS[layout](torch.randn(y.shape).to(y.dtype).to(device))
    y.backward(dy)
    check_gradients(a, b, dy, ODD_SIZES, False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_operands_that_are_not_contiguous(device, layout):
    values = random_operands(ODD_SIZES, 24, 16, torch.float32, device)
    a, b = (LAYOUTS[layout](v).detach().requires_grad_() for v in values)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
    dy = torch.randn(y.shape).to(device)
    y.backward(dy)
    check_gradients(a, b, dy, ODD_SIZES, False)


def test_rows_past_the_groups_get_zero_gradients(device):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device, extra_rows=6)
    a.requires_grad_(), b.requires_grad_()
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
    dy = torch.randn(y.shape).to(device)
    y.backward(dy)
    assert_all_zero(a.grad[sum(ODD_SIZES) :], "gradient of rows past the groups")
    check_gradients(a, b, dy, ODD_SIZES, False)


@pytest.mark.parametrize("kind", ["no rows", "rows past all groups"])
def test_with_all_groups_empty_gradients_are_attached_and_zero(device, kind):
    extra_rows = 0 if kind == "no rows" else 4
    a, b = random_operands([0, 0], 24, 16, torch.bfloat16, device, extra_rows=extra_rows)
    a.requires_grad_(), b.requires_grad_()
    y = grouped_gemm.gmm(a, b, torch.tensor([0, 0]))
    assert y.shape == (extra_rows, 16) and y.requires_grad
    assert_all_zero(y)
    y.sum().backward()
    assert a.grad.shape == a.shape and b.grad.shape == b.shape
    assert_all_zero(a.grad, "a.grad"), assert_all_zero(b.grad, "b.grad")


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_dgrad_and_wgrad_can_be_called_by_themselves(device, sizes, dtype, trans_b):
    a, b = random_operands(sizes, 24, 13, dtype, device, trans_b)
    dy = torch.randn(a.shape[0], 13).to(dtype).to(device)
    batch_sizes = torch.tensor(sizes)
    dx = grouped_gemm.gmm_dgrad(dy, b, batch_sizes, trans_b)
    assert dx.dtype == dtype
    assert_gemm_close(dx, reference.gmm_dgrad, dy, b, sizes, 13, trans_b)
    dw = grouped_gemm.gmm_wgrad(a, dy, batch_sizes, trans_b)
    assert dw.dtype == dtype and dw.shape == b.shape
    assert_gemm_close(dw, reference.gmm_wgrad, a, dy, sizes, wgrad_depth(sizes), trans_b)


@pytest.mark.small
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("out_dtype", ["same", torch.float32], ids=str)
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_wgrad_overwrites_every_element_of_out(device, dtype, out_dtype, trans_b):
    out_dtype = dtype if out_dtype == "same" else out_dtype
    a, b = random_operands(ODD_SIZES, 7, 5, dtype, device, trans_b)
    dy = torch.randn(a.shape[0], 5).to(dtype).to(device)
    buffer = GuardedBuffer(b.shape, out_dtype, device)
    sizes = torch.tensor(ODD_SIZES)
    dw = grouped_gemm.gmm_wgrad(a, dy, sizes, trans_b, out=buffer.tensor)
    assert dw is buffer.tensor
    buffer.assert_guards_intact()
    assert_all_zero(dw[1], "the empty group's gradient")
    assert_gemm_close(dw, reference.gmm_wgrad, a, dy, ODD_SIZES, wgrad_depth(ODD_SIZES), trans_b)


@pytest.mark.small
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("out_dtype", ["same", torch.float32], ids=str)
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_wgrad_accumulates_with_one_rounding(device, dtype, out_dtype, trans_b):
    out_dtype = dtype if out_dtype == "same" else out_dtype
    a, b = random_operands(ODD_SIZES, 7, 5, dtype, device, trans_b)
    dy = torch.randn(a.shape[0], 5).to(dtype).to(device)
    buffer = GuardedBuffer(b.shape, out_dtype, device)
    buffer.tensor.copy_(torch.randn(b.shape))
    before = buffer.tensor.clone()
    sizes = torch.tensor(ODD_SIZES)
    dw = grouped_gemm.gmm_wgrad(a, dy, sizes, trans_b, out=buffer.tensor, accumulate=True)
    assert dw is buffer.tensor
    buffer.assert_guards_intact()
    assert_same_bits(dw[1], before[1], "the empty group's gradient")
    depth = wgrad_depth(ODD_SIZES)
    assert_gemm_close(dw, reference.gmm_wgrad, a, dy, ODD_SIZES, depth, trans_b, previous=before)


def test_main_grad_in_float32_collects_micro_batches_without_loss(device):
    """Megatron's convention: many bf16 micro-batches into one float32 buffer."""
    main_grad = torch.zeros(2, 8, 4, device=device)
    exact = torch.zeros(2, 8, 4)
    for step in range(16):
        a = torch.full((6, 8), 1 + step / 64).bfloat16().to(device)
        dy = torch.full((6, 4), 1 / 128).bfloat16().to(device)
        sizes = torch.tensor([2, 4])
        grouped_gemm.gmm_wgrad(a, dy, sizes, out=main_grad, accumulate=True)
        exact += reference.gmm_wgrad(a, dy, [2, 4]).float()
    assert_same_bits(main_grad, exact)


@pytest.mark.parametrize("function", ["gmm_dgrad", "gmm_wgrad"])
@pytest.mark.parametrize("kind", ["out", "out_dtype"])
def test_dgrad_and_wgrad_give_float32_from_bfloat16_when_asked(device, function, kind):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.bfloat16, device)
    dy = torch.randn(a.shape[0], 16).bfloat16().to(device)
    left, right, like, depth = (dy, b, a, 16)
    if function == "gmm_wgrad":
        left, right, like, depth = (a, dy, b, wgrad_depth(ODD_SIZES))
    wanted = {"out_dtype": torch.float32}
    if kind == "out":
        wanted = {"out": torch.full(like.shape, float("nan"), device=device)}
    result = getattr(grouped_gemm, function)(left, right, torch.tensor(ODD_SIZES), **wanted)
    assert result.dtype == torch.float32
    assert_gemm_close(result, getattr(reference, function), left, right, ODD_SIZES, depth)


def test_a_float32_result_of_half_precision_operands_has_gradients(device):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.bfloat16, device, requires_grad=True)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES), out_dtype=torch.float32)
    assert y.requires_grad
    dy = torch.randn(y.shape).bfloat16().float().to(device)
    y.backward(dy)
    check_gradients(a, b, dy, ODD_SIZES, False)


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_gradients_have_the_same_bits_every_time(device, dtype):
    sizes = GROUPS["around_tile_edges"]
    a, b = random_operands(sizes, 65, 40, dtype, device)
    dy = torch.randn(a.shape[0], 40).to(dtype).to(device)
    dx = grouped_gemm.gmm_dgrad(dy, b, torch.tensor(sizes))
    dw = grouped_gemm.gmm_wgrad(a, dy, torch.tensor(sizes))
    for _ in range(3):
        assert_same_bits(grouped_gemm.gmm_dgrad(dy, b, torch.tensor(sizes)), dx)
        assert_same_bits(grouped_gemm.gmm_wgrad(a, dy, torch.tensor(sizes)), dw)
