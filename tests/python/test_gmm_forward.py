"""gmm forward: every group of rows times its own matrix, whatever the shape, dtype or layout."""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import LAYOUTS, GuardedBuffer, fenced
from support.compare import assert_all_zero, assert_gemm_close, assert_same_bits
from support.shapes import (
    GEMM_DTYPES,
    GROUPS,
    LONG_MATRIX_SHAPES,
    MATRIX_SHAPES,
    random_operands,
)

ODD_SIZES = [3, 0, 17, 1]


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_every_group_is_multiplied_by_its_own_matrix(device, sizes, dtype, trans_b):
    a, b = random_operands(sizes, 40, 24, dtype, device, trans_b)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes), trans_b)
    assert y.dtype == dtype
    assert y.device.type == device.type
    assert_gemm_close(y, reference.gmm, a, b, sizes, 40, trans_b)


@pytest.mark.small
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("shape", MATRIX_SHAPES, ids=str)
def test_any_k_and_n_are_accepted(device, shape, dtype, trans_b):
    a, b = random_operands(ODD_SIZES, *shape, dtype, device, trans_b)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES), trans_b)
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, shape[0], trans_b)


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("shape", LONG_MATRIX_SHAPES, ids=str)
def test_long_rows_are_summed_in_float32(device, shape, dtype):
    a, b = random_operands(ODD_SIZES, *shape, dtype, device)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, shape[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_accumulation_is_not_in_the_element_type(device, dtype):
    ones = torch.ones(3, 4099, dtype=dtype, device=device)
    y = grouped_gemm.gmm(
        ones, ones.new_ones(1, 4099, 2), torch.tensor([3]), out_dtype=torch.float32
    )
    assert (y == 4099).all()


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_products_of_small_integers_are_exact(device, dtype):
    sizes = GROUPS["around_tile_edges"]
    a = torch.randint(-2, 3, (sum(sizes), 16)).to(dtype).to(device)
    b = torch.randint(-2, 3, (len(sizes), 16, 33)).to(dtype).to(device)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes))
    assert_same_bits(y, reference.gmm(a, b, sizes).to(dtype))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("trans_b", [False, True])
def test_k_or_n_of_zero_gives_zeros_of_the_right_shape(device, shape, trans_b):
    a, b = random_operands(ODD_SIZES, *shape, torch.float32, device, trans_b)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES), trans_b)
    assert y.shape == (sum(ODD_SIZES), shape[1])
    assert_all_zero(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_past_the_last_group_are_zeros(device, dtype):
    a, b = random_operands(ODD_SIZES, 24, 40, dtype, device, extra_rows=70)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
    assert_all_zero(y[sum(ODD_SIZES) :], "rows past the groups")
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


@pytest.mark.small
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operand", ["a", "b"])
def test_operands_may_be_unaligned_or_not_contiguous(device, operand, layout, dtype):
    a, b = random_operands(ODD_SIZES, 24, 16, dtype, device)
    arranged = {"a": a, "b": b}
    arranged[operand] = LAYOUTS[layout](arranged[operand])
    y = grouped_gemm.gmm(arranged["a"], arranged["b"], torch.tensor(ODD_SIZES))
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


def test_weights_may_be_expanded_with_stride_zero(device):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device)
    shared = b[:1].expand(4, -1, -1)
    y = grouped_gemm.gmm(a, shared, torch.tensor(ODD_SIZES))
    assert_gemm_close(y, reference.gmm, a, shared, ODD_SIZES, 24)


@pytest.mark.small
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("trans_b", [False, True])
def test_nothing_outside_the_operands_is_read(device, dtype, trans_b):
    a, b = random_operands(ODD_SIZES, 13, 11, dtype, device, trans_b)
    y = grouped_gemm.gmm(fenced(a), fenced(b), torch.tensor(ODD_SIZES), trans_b)
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 13, trans_b)


@pytest.mark.small
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0, 1])
def test_out_is_filled_entirely_and_nothing_around_it(device, dtype, offset):
    a, b = random_operands(ODD_SIZES, 24, 13, dtype, device, extra_rows=5)
    buffer = GuardedBuffer((a.shape[0], 13), dtype, device, offset_elements=offset)
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES), out=buffer.tensor)
    assert y is buffer.tensor
    buffer.assert_guards_intact()
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


@pytest.mark.small
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["column slice", "transposed", "every second row"])
def test_an_out_that_is_not_contiguous_is_filled_rightly_or_refused_untouched(
    device, layout, dtype
):
    a, b = random_operands(ODD_SIZES, 24, 13, dtype, device, extra_rows=2)
    shape = {"column slice": (23, 17), "transposed": (13, 23), "every second row": (46, 13)}[layout]
    storage = torch.full(shape, 7.0, dtype=dtype, device=device)
    out = {
        "column slice": storage[:, 2:15],
        "transposed": storage.T,
        "every second row": storage[::2],
    }[layout]
    try:
        y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES), out=out)
    except (ValueError, RuntimeError) as error:
        assert "out" in str(error) and (storage == 7.0).all()
        return
    assert y is out
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)
    out.fill_(7.0)
    assert (storage == 7.0).all(), "elements between the rows of out were written"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("through_out", [False, True])
def test_half_precision_operands_may_give_a_float32_result(device, dtype, through_out):
    a, b = random_operands(ODD_SIZES, 24, 13, dtype, device, extra_rows=2)
    sizes = torch.tensor(ODD_SIZES)
    if through_out:
        out = torch.full((a.shape[0], 13), float("nan"), device=device)
        y = grouped_gemm.gmm(a, b, sizes, out=out)
    else:
        y = grouped_gemm.gmm(a, b, sizes, out_dtype=torch.float32)
    assert y.dtype == torch.float32
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


def test_float64_is_accepted_on_the_cpu():
    a, b = random_operands(ODD_SIZES, 24, 13, torch.float64, "cpu")
    y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
    assert y.dtype == torch.float64
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


def test_dtypes_may_alternate_from_call_to_call(device):
    for dtype in GEMM_DTYPES + GEMM_DTYPES[::-1]:
        a, b = random_operands(ODD_SIZES, 24, 13, dtype, device)
        y = grouped_gemm.gmm(a, b, torch.tensor(ODD_SIZES))
        assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_the_same_call_gives_the_same_bits(device, dtype):
    sizes = GROUPS["around_tile_edges"]
    a, b = random_operands(sizes, 130, 67, dtype, device)
    first = grouped_gemm.gmm(a, b, torch.tensor(sizes))
    for _ in range(3):
        assert_same_bits(grouped_gemm.gmm(a, b, torch.tensor(sizes)), first)


def test_operands_are_left_as_they_were(device):
    a, b = random_operands(ODD_SIZES, 24, 13, torch.float32, device)
    sizes = torch.tensor(ODD_SIZES)
    before = [t.clone() for t in (a, b, sizes)]
    grouped_gemm.gmm(a, b, sizes)
    for tensor, copy in zip((a, b, sizes), before, strict=True):
        assert_same_bits(tensor, copy)
