"""sinkhorn: the normalization of a routing matrix, equal to the float64 formula step for step."""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import LAYOUTS
from support.compare import assert_close_elementwise, assert_same_bits, rounding_bound

SHAPES = [(1, 1), (1, 7), (5, 8), (8, 5), (129, 7), (64, 64), (1000, 16), (3, 1025), (300, 1024)]
RELATIVE = 1e-4


def assert_is_the_formula(result, cost, iterations):
    expected, _ = reference.sinkhorn(cost, iterations)
    bound = RELATIVE * expected.abs() + 1e-35
    if result.dtype != torch.float32:
        bound = bound + rounding_bound(result.dtype, expected)
    assert_close_elementwise(result, expected, bound, f"sinkhorn after {iterations} iterations")


@pytest.mark.small
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_tokens_and_experts(device, shape):
    cost = torch.randn(shape).to(device)
    result, info = grouped_gemm.sinkhorn(cost, return_info=True)
    assert result.dtype == torch.float32 and result.shape == shape
    assert result.device == cost.device
    assert_is_the_formula(result, cost, int(info.iterations))


@pytest.mark.parametrize("iterations", [1, 2, 3, 10, 50])
def test_each_iteration_is_the_formulas(device, iterations):
    cost = (3 * torch.randn(65, 9)).to(device)
    result, info = grouped_gemm.sinkhorn(cost, 0.0, max_iterations=iterations, return_info=True)
    assert int(info.iterations) == iterations
    assert_is_the_formula(result, cost, iterations)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-5])
def test_iteration_stops_when_the_mean_change_is_within_tol(device, tol):
    cost = torch.randn(200, 16).to(device)
    _, info = grouped_gemm.sinkhorn(cost, tol, return_info=True)
    iterations = int(info.iterations)
    _, change = reference.sinkhorn(cost, iterations)
    _, change_before = reference.sinkhorn(cost, iterations - 1)
    slack = 20 * torch.finfo(torch.float32).eps
    assert change <= tol + slack
    assert change_before > tol - slack
    assert abs(float(info.error) - change) <= slack


def test_the_information_lies_on_the_device(device):
    cost = torch.randn(20, 4).to(device)
    _, info = grouped_gemm.sinkhorn(cost, return_info=True)
    for value in (info.iterations, info.error):
        assert isinstance(value, torch.Tensor) and value.device == cost.device


@pytest.mark.parametrize("tol", [0.0, -1.0])
def test_a_tol_of_zero_or_less_ends_at_the_cap(device, tol):
    cost = torch.zeros(8, 4).to(device)  # converges at once
    _, info = grouped_gemm.sinkhorn(cost, tol, max_iterations=7, return_info=True)
    assert int(info.iterations) == 7


@pytest.mark.parametrize("tol", [float("inf"), 1e300, 3.41e38])
def test_a_tol_beyond_any_change_ends_after_one_iteration(device, tol):
    cost = torch.randn(33, 5).to(device)
    balanced, info = grouped_gemm.sinkhorn(cost, tol, return_info=True)
    assert info.iterations.item() == 1
    assert_same_bits(balanced, grouped_gemm.sinkhorn(cost, 0, max_iterations=1))


def test_skewed_logits_end_at_the_cap_with_a_finite_result(device):
    """One expert takes all: the change of d1 never falls below tol in the original's formula."""
    cost = torch.randn(512, 8)
    cost[:, 0] += 30
    cost = cost.to(device)
    result, info = grouped_gemm.sinkhorn(cost, 1e-12, max_iterations=40, return_info=True)
    assert int(info.iterations) <= 40
    assert result.isfinite().all()


@pytest.mark.parametrize("spread", [1, 5, 15])
def test_logits_down_to_minus_15_are_within_1e_4(device, spread):
    cost = (torch.rand(150, 12) * 2 - 1) * spread
    cost[0], cost[1] = -15, 15
    cost = cost.to(device)
    result, info = grouped_gemm.sinkhorn(cost, max_iterations=30, return_info=True)
    assert_is_the_formula(result, cost, int(info.iterations))


@pytest.mark.parametrize("value", [-30.0, -80.0, -1000.0, -1e30])
def test_very_low_logits_give_a_finite_result(device, value):
    for rows in (slice(0, 3), slice(None)):
        cost = torch.randn(20, 6)
        cost[rows] = value
        result = grouped_gemm.sinkhorn(cost.to(device), max_iterations=20)
        assert result.isfinite().all() and (result >= 0).all()


@pytest.mark.parametrize("value", [88.0, 100.0, 1000.0, 30000.0])
def test_very_high_logits_do_not_overflow(device, value):
    cost = torch.randn(20, 6)
    cost[3] += value
    cost[5, 2] = value
    cost = cost.to(device)
    result, info = grouped_gemm.sinkhorn(cost, max_iterations=20, return_info=True)
    assert result.isfinite().all()
    assert_is_the_formula(result, cost, int(info.iterations))


@pytest.mark.parametrize("shift", [1.0, 50.0, 512.0])
def test_a_common_upward_shift_has_no_effect(device, shift):
    cost = (torch.randint(-64, 65, (65, 9)) / 32).to(device)  # exact under the shifts
    plain, info = grouped_gemm.sinkhorn(cost, return_info=True)
    shifted, shifted_info = grouped_gemm.sinkhorn(cost + shift, return_info=True)
    assert int(info.iterations) == int(shifted_info.iterations)
    assert_close_elementwise(shifted, plain.cpu().double(), 1e-5 * plain.cpu().double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_logits_give_a_result_of_their_dtype(device, dtype):
    cost = torch.randn(65, 9).to(dtype).to(device)
    result, info = grouped_gemm.sinkhorn(cost, return_info=True)
    assert result.dtype == dtype
    assert_is_the_formula(result, cost, int(info.iterations))


@pytest.mark.parametrize("function", ["sinkhorn", "sinkhorn_kernel", "backend"])
def test_the_argument_is_not_changed(device, function):
    call = {
        "sinkhorn": grouped_gemm.sinkhorn,
        "sinkhorn_kernel": grouped_gemm.ops.sinkhorn_kernel,
        "backend": grouped_gemm.backend.sinkhorn,
    }[function]
    cost = torch.randn(65, 9).to(device)
    before = cost.clone()
    result = call(cost)
    assert_same_bits(cost, before)
    assert result.data_ptr() != cost.data_ptr()


def test_all_spellings_agree(device):
    import grouped_gemm_backend

    cost = torch.randn(65, 9).to(device)
    expected = grouped_gemm.sinkhorn(cost)
    for call in (
        grouped_gemm.ops.sinkhorn_kernel,
        grouped_gemm.backend.sinkhorn,
        grouped_gemm_backend.sinkhorn,
    ):
        assert_same_bits(call(cost), expected)
        assert_same_bits(call(cost, 0.0001), expected)
        assert_same_bits(call(cost, tol=0.0001), expected)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_without_tokens_or_experts_the_result_is_empty(device, shape):
    assert grouped_gemm.sinkhorn(torch.empty(shape, device=device)).shape == shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_may_be_unaligned_or_not_contiguous(device, layout):
    cost = torch.randn(65, 9).to(device)
    assert_same_bits(grouped_gemm.sinkhorn(LAYOUTS[layout](cost)), grouped_gemm.sinkhorn(cost))


def test_very_many_tokens(device):
    cost = torch.randn(131072, 8).to(device)
    result, info = grouped_gemm.sinkhorn(cost, return_info=True)
    assert_is_the_formula(result, cost, int(info.iterations))
    assert not torch.equal(result, cost), "raw logits came back"


def test_the_same_call_gives_the_same_bits(device):
    cost = torch.randn(5000, 16).to(device)
    first = grouped_gemm.sinkhorn(cost)
    for _ in range(3):
        assert_same_bits(grouped_gemm.sinkhorn(cost), first)
