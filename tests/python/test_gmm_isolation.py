"""What one group holds never reaches another: NaN and Inf stay where they are, other bits stay."""

import grouped_gemm
import pytest
import torch
from support.compare import assert_all_zero, assert_same_bits
from support.shapes import random_operands, size_arguments

SIZES = [65, 1, 0, 63, 7]  # no group ends on a tile's edge
STARTS = [0, 65, 66, 66, 129]
ROWS = sum(SIZES)
INTRUDERS = [float("nan"), float("inf"), float("-inf")]


def run_all(a, b, dy, sizes):
    return (
        grouped_gemm.gmm(a, b, **sizes),
        grouped_gemm.gmm_dgrad(dy, b, **sizes),
        grouped_gemm.gmm_wgrad(a, dy, **sizes),
    )


@pytest.mark.parametrize("kind", ["cpu_int64", "device_int32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("intruder", INTRUDERS, ids=str)
@pytest.mark.parametrize("group", [0, 1, 3, 4])
def test_a_group_holding_nan_or_inf_leaves_all_others_their_bits(
    device, group, intruder, dtype, kind
):
    a, b = random_operands(SIZES, 24, 40, dtype, device)
    dy = torch.randn(ROWS, 40).to(dtype).to(device)
    sizes = size_arguments(SIZES, kind, device)
    clean = run_all(a, b, dy, sizes)
    rows = slice(STARTS[group], STARTS[group] + SIZES[group])
    a[rows], dy[rows], b[group] = intruder, intruder, intruder
    y, dx, dw = run_all(a, b, dy, sizes)
    outside = torch.ones(ROWS, dtype=torch.bool)
    outside[rows] = False
    assert_same_bits(y[outside.to(device)], clean[0][outside.to(device)], "other groups' rows")
    assert_same_bits(dx[outside.to(device)], clean[1][outside.to(device)], "other groups' dgrad")
    others = [g for g in range(len(SIZES)) if g != group]
    assert_same_bits(dw[others], clean[2][others], "other groups' wgrad")
    assert not y[rows].isfinite().any(), "the group itself must show what it holds"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("intruder", INTRUDERS, ids=str)
def test_nan_in_rows_past_the_groups_goes_nowhere(device, intruder, dtype):
    a, b = random_operands(SIZES, 24, 40, dtype, device, extra_rows=9)
    dy = torch.randn(ROWS + 9, 40).to(dtype).to(device)
    sizes = {"batch_sizes": torch.tensor(SIZES)}
    clean = run_all(a, b, dy, sizes)
    a[ROWS:], dy[ROWS:] = intruder, intruder
    for result, expected in zip(run_all(a, b, dy, sizes), clean, strict=True):
        assert_same_bits(result, expected)
    y, dx, _ = clean
    assert_all_zero(y[ROWS:]), assert_all_zero(dx[ROWS:])


@pytest.mark.parametrize("intruder", INTRUDERS, ids=str)
def test_nan_in_the_matrix_of_an_empty_group_goes_nowhere(device, intruder):
    a, b = random_operands(SIZES, 24, 40, torch.float32, device)
    dy = torch.randn(ROWS, 40).to(device)
    sizes = {"batch_sizes": torch.tensor(SIZES, device=device)}
    clean = run_all(a, b, dy, sizes)
    b[2] = intruder
    y, dx, dw = run_all(a, b, dy, sizes)
    assert_same_bits(y, clean[0]), assert_same_bits(dx, clean[1])
    assert_all_zero(dw[2], "the empty group's wgrad")


def test_a_product_of_nan_is_nan_and_of_inf_is_inf_within_the_group(device):
    a, b = torch.ones(4, 8, device=device), torch.ones(2, 8, 8, device=device)
    a[0, 3], a[3, 5] = float("nan"), float("inf")
    y = grouped_gemm.gmm(a, b, torch.tensor([2, 2]))
    assert y[0].isnan().all() and (y[3] == float("inf")).all() and (y[1:3] == 8).all()
