"""fp32 products where PyTorch allows tf32: exact for operands that tf32 can hold, else off by no
more than the two roundings to its 11 bits; every pass, and any shape.
"""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import GuardedBuffer
from support.compare import (
    assert_close_elementwise,
    assert_gemm_close,
    assert_same_bits,
    wgrad_depth,
)
from support.shapes import random_operands

SIZES = [70, 0, 1, 64, 200, 129, 0, 300]
UNIT = 2.0**-11  # of a rounding to nearest


@pytest.fixture(autouse=True)
def allowed(restore_float32_precision):
    torch.set_float32_matmul_precision("high")


def as_tf32(x):
    """x rounded to 11 significant bits, toward zero."""
    return (x.contiguous().view(torch.int32) & -(1 << 13)).view(torch.float32)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("k, n", [(136, 264), (32, 7), (1000, 520), (7, 5), (4, 1)])
def test_operands_of_11_bits_are_multiplied_exactly(device, k, n, trans_b):
    a, b = (as_tf32(x) for x in random_operands(SIZES, k, n, torch.float32, device, trans_b))
    dy = as_tf32(torch.randn(a.shape[0], n).to(device))
    sizes = torch.tensor(SIZES, device=device)
    buffer = GuardedBuffer((a.shape[0], n), torch.float32, device)
    y = grouped_gemm.gmm(a, b, sizes, trans_b, out=buffer.tensor)
    buffer.assert_guards_intact()
    assert_gemm_close(y, reference.gmm, a, b, SIZES, k, trans_b)
    assert_same_bits(grouped_gemm.gmm(a, b, sizes, trans_b), y, "the same call again")
    dx = grouped_gemm.gmm_dgrad(dy, b, sizes, trans_b)
    assert_gemm_close(dx, reference.gmm_dgrad, dy, b, SIZES, n, trans_b)
    dw = grouped_gemm.gmm_wgrad(a, dy, sizes, trans_b)
    assert_gemm_close(dw, reference.gmm_wgrad, a, dy, SIZES, wgrad_depth(SIZES), trans_b)


@pytest.mark.parametrize("num_sms", [None, 1, 5])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("k, n", [(136, 264), (64, 64), (192, 36), (256, 1000), (512, 232)])
@pytest.mark.parametrize("accumulate", [False, True], ids=["store", "add"])
def test_weight_gradients_of_every_width_and_many_tiles_a_block(
    device, accumulate, k, n, trans_b, num_sms
):
    a, b = (as_tf32(x) for x in random_operands(SIZES, k, n, torch.float32, device, trans_b))
    dy = as_tf32(torch.randn(a.shape[0], n).to(device))
    a, dy = (torch.cat([x, torch.full((3, x.shape[1]), torch.nan, device=device)]) for x in (a, dy))
    buffer = GuardedBuffer(b.shape, torch.float32, device)
    buffer.tensor.copy_(torch.randn(b.shape) if accumulate else torch.full(b.shape, torch.nan))
    before = buffer.tensor.clone()
    sizes = torch.tensor(SIZES, device=device)
    grouped_gemm.set_num_sms(num_sms)
    try:
        for _ in range(2):
            out = before.clone()
            grouped_gemm.gmm_wgrad(a, dy, sizes, trans_b, out=out, accumulate=accumulate)
        grouped_gemm.gmm_wgrad(a, dy, sizes, trans_b, out=buffer.tensor, accumulate=accumulate)
    finally:
        grouped_gemm.set_num_sms(None)
    buffer.assert_guards_intact()
    assert_same_bits(out, buffer.tensor, "the same call again")
    previous = before if accumulate else None
    depth = wgrad_depth(SIZES)
    assert_gemm_close(out, reference.gmm_wgrad, a, dy, SIZES, depth, trans_b, previous=previous)


@pytest.mark.parametrize("trans_b", [False, True])
def test_other_operands_lose_no_more_than_two_roundings(device, trans_b):
    a, b = random_operands(SIZES, 256, 96, torch.float32, device, trans_b, requires_grad=True)
    dy = torch.randn(a.shape[0], 96).to(device)
    y = grouped_gemm.gmm(a, b, torch.tensor(SIZES, device=device), trans_b)
    y.backward(dy)
    for actual, function, left, right in (
        (y, reference.gmm, a, b),
        (a.grad, reference.gmm_dgrad, dy, b),
        (b.grad, reference.gmm_wgrad, a, dy),
    ):
        left, right = left.detach(), right.detach()
        expected = function(left, right, SIZES, trans_b)
        magnitude = function(left.abs(), right.abs(), SIZES, trans_b)
        # 2 units for two operands, and what summing in fp32 costs.
        assert_close_elementwise(actual, expected, 2.1 * UNIT * magnitude, function.__name__)


def three_quarters_of_a_step_above_tf32(*shape):
    """Values of [1, 1.25) that tf32 holds, and 3/4 of the way from each to the next one up."""
    steps = torch.randint(0, 256, shape) + 0.75
    return 1 + steps * 2 * UNIT  # exact in fp32


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("k", [4, 8])
def test_operands_are_rounded_to_nearest_and_not_cut_off(device, k, trans_b):
    n = 136
    a = three_quarters_of_a_step_above_tf32(sum(SIZES), k).to(device)
    b = three_quarters_of_a_step_above_tf32(len(SIZES), *((n, k) if trans_b else (k, n))).to(device)
    dy = three_quarters_of_a_step_above_tf32(sum(SIZES), n).to(device)
    sizes = torch.tensor(SIZES, device=device)
    for actual, function, left, right in (
        (grouped_gemm.gmm(a, b, sizes, trans_b), reference.gmm, a, b),
        (grouped_gemm.gmm_dgrad(dy, b, sizes, trans_b), reference.gmm_dgrad, dy, b),
        (grouped_gemm.gmm_wgrad(a, dy, sizes, trans_b), reference.gmm_wgrad, a, dy),
    ):
        expected = function(left, right, SIZES, trans_b)
        # A step is 2 units of values from 1 on. To nearest an operand is off by 1/4 of it, half
        # a unit: a product by 1 unit at most. Cut off, by 3/4 of it, 1.5 units of a value below
        # 1.25: a product by 2.4. All products and errors have one sign, so sums are off by as
        # much, and summing 300 of them in fp32 adds less than 0.1 (300 roundings of 2^-24).
        bound = 1.25 * UNIT * expected
        assert_close_elementwise(actual, expected, bound, function.__name__)
        cut_off = function(as_tf32(left), as_tf32(right), SIZES, trans_b)
        assert (expected - cut_off >= bound).all(), "the bound would let cutting off pass"


@pytest.mark.parametrize("trans_b", [False, True])
def test_nan_of_one_group_stays_there(device, trans_b):
    a, b = random_operands(SIZES, 64, 136, torch.float32, device, trans_b)
    sizes = torch.tensor(SIZES, device=device)
    clean = grouped_gemm.gmm(a, b, sizes, trans_b)
    a[70] = torch.nan  # the group of one row
    poisoned = grouped_gemm.gmm(a, b, sizes, trans_b)
    assert poisoned[70].isnan().all()
    poisoned[70] = clean[70]
    assert_same_bits(poisoned, clean, "the other groups")


@pytest.mark.parametrize("accumulate", [False, True], ids=["store", "add"])
def test_infinities_around_a_group_do_not_reach_its_weight_gradient(device, accumulate):
    rows = [70, 33, 64, 129, 1]  # those of no multiple of 32 end within their neighbours' reach
    a, b = random_operands(rows, 136, 264, torch.float32, device)
    dy = torch.randn(a.shape[0], 264).to(device)
    sizes = torch.tensor(rows, device=device)

    def call():
        out = torch.ones(b.shape, device=device)
        return grouped_gemm.gmm_wgrad(a, dy, sizes, out=out, accumulate=accumulate)

    clean = call()
    for start, end in ((0, 70), (103, 167), (296, 297)):  # groups 0, 2 and 4
        a[start:end] = torch.nan
        dy[start:end] = torch.inf
    dirty = call()
    assert dirty[::2].isnan().all()
    assert_same_bits(dirty[1::2].contiguous(), clean[1::2].contiguous(), "the other groups")
