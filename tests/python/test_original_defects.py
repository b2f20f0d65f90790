"""One test for each known defect of the packages that this one replaces: none may come back.

Defects of building and importing are in test_library.py, those that need a GPU to show (streams,
devices, captures, 2^31 elements) also in test_cuda_*.py and test_large.py.
"""

import grouped_gemm
import pytest
import torch
from grouped_gemm import backend, ops
from support import reference
from support.buffers import fenced
from support.compare import (
    assert_all_zero,
    assert_close_elementwise,
    assert_gemm_close,
    assert_same_bits,
    rounding_bound,
    wgrad_depth,
)
from support.shapes import random_activations, random_indices, random_operands

SIZES = [3, 0, 17, 1]


# gmm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gmm_is_not_bfloat16_only(device, dtype):
    a, b = random_operands(SIZES, 24, 16, dtype, device)
    assert_gemm_close(ops.gmm(a, b, torch.tensor(SIZES)), reference.gmm, a, b, SIZES, 24)


def test_gmm_takes_sizes_on_the_device_not_only_on_the_cpu(device):
    a, b = random_operands(SIZES, 24, 16, torch.bfloat16, device)
    y = ops.gmm(a, b, torch.tensor(SIZES, device=device))
    assert_gemm_close(y, reference.gmm, a, b, SIZES, 24)


@pytest.mark.parametrize("rows", [0, 5])
def test_gmm_with_all_groups_empty_does_not_assert(device, rows):
    a, b = random_operands([0, 0, 0], 24, 16, torch.bfloat16, device, extra_rows=rows)
    for sizes in (torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64).to(device)):
        y = ops.gmm(a.requires_grad_(), b.requires_grad_(), sizes)
        assert y.shape == (rows, 16)
        assert_all_zero(y)
        y.sum().backward()


def test_the_weight_gradient_of_an_empty_group_is_not_left_uninitialised(device):
    a, b = random_operands(SIZES, 24, 16, torch.bfloat16, device, requires_grad=True)
    ops.gmm(a, b, torch.tensor(SIZES)).sum().backward()
    assert_all_zero(b.grad[1])
    c = torch.full(b.shape, float("nan"), dtype=torch.bfloat16, device=device)
    dy = torch.ones(21, 16, dtype=torch.bfloat16, device=device)
    backend.gmm(a.detach(), dy, torch.tensor(SIZES), trans_a=True, c=c)
    assert_gemm_close(c, reference.gmm_wgrad, a, dy, SIZES, wgrad_depth(SIZES))


# permute and unpermute


def test_top_1_applies_probs_and_gives_their_gradient(device):
    x = torch.randn(7, 8, device=device, requires_grad=True)
    indices = random_indices(7, 1, 3, device)
    probs = torch.rand(7, 1, device=device, requires_grad=True)
    permuted, row_id_map = ops.permute(x, indices)
    y = ops.unpermute(permuted, row_id_map, probs)
    assert_same_bits(y, x.detach() * probs.detach())
    y.sum().backward()
    expected = x.detach().cpu().double().sum(1, keepdim=True)
    assert_close_elementwise(probs.grad, expected, 1e-5)


def test_unpermute_without_probs_does_not_assume_top_1(device):
    x = random_activations(7, 8, torch.float32, device)
    permuted, row_id_map = ops.permute(x, random_indices(7, 3, 4, device))
    y = ops.unpermute(permuted, row_id_map)
    assert_same_bits(y, x.repeat(3, 1))


def test_prob_gradients_are_given_when_only_probs_want_one(device):
    permuted, row_id_map = ops.permute(
        torch.ones(7, 8, device=device), random_indices(7, 2, 4, device)
    )
    probs = torch.rand(7, 2, device=device, requires_grad=True)
    ops.unpermute(permuted, row_id_map, probs).sum().backward()
    assert (probs.grad == 8).all()


def test_an_empty_unpermute_is_not_its_input_and_probs_are_not_their_own_gradient(device):
    x = torch.empty(0, 8, device=device, requires_grad=True)
    probs = torch.empty(0, 2, device=device, requires_grad=True)
    row_id_map = torch.empty(0, dtype=torch.int32, device=device)
    y = ops.unpermute(x, row_id_map, probs)
    assert y is not x and y.shape == (0, 8)
    y.sum().backward()
    assert probs.grad is not probs and probs.grad.shape == (0, 2)


def test_an_empty_permute_gives_a_map_not_none(device):
    _, row_id_map = ops.permute(
        torch.empty(0, 8, device=device), torch.empty(0, 2, dtype=torch.int32, device=device)
    )
    assert isinstance(row_id_map, torch.Tensor)
    assert row_id_map.dtype == torch.int32 and row_id_map.shape == (0,)


def test_indices_on_the_cpu_raise_no_name_error(device):
    x = random_activations(7, 8, torch.float32, device)
    indices = random_indices(7, 2, 4)
    try:
        permuted, _ = ops.permute(x, indices)
    except (ValueError, RuntimeError) as error:
        assert "permute" in str(error) and "indices" in str(error)
        return
    assert_same_bits(permuted, reference.gather_rows(x, reference.row_map(indices)[1]))


def test_negative_ids_do_not_sort_to_the_head_and_shift_the_groups(device):
    x = random_activations(4, 8, torch.float32, device) + 3
    indices = torch.tensor([[0], [-1], [1], [0]], device=device)
    permuted, row_id_map = ops.permute(x, indices)
    assert_same_bits(permuted[:3], x[[0, 3, 2]])
    assert_all_zero(permuted[3])
    assert row_id_map.tolist() == [0, -1, 2, 1]


def test_ids_beyond_the_experts_are_checked_where_the_number_is_known(device):
    x = random_activations(4, 8, torch.float32, device)
    indices = torch.tensor([[0], [2], [99], [1]], device=device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=2)
    assert result.row_id_map.tolist() == [[0, -1, -1, 1]]
    assert result.tokens_per_expert.tolist() == [1, 1]


def test_num_out_tokens_beyond_the_slots_leaves_no_uninitialised_tail(device):
    x = random_activations(7, 8, torch.bfloat16, device)
    permuted, _ = ops.permute(x, random_indices(7, 2, 4, device), 64)
    assert permuted.shape == (64, 8)
    assert_all_zero(permuted[14:])


@pytest.mark.parametrize("top_k", [128, 129, 200])
def test_more_than_128_experts_per_token_leave_no_row_unwritten(device, top_k):
    x = random_activations(5, 8, torch.float32, device)
    indices = random_indices(5, top_k, 300, device)
    permuted, row_id_map = ops.permute(x, indices)
    mapping, source = reference.row_map(indices)
    assert row_id_map.tolist() == mapping
    assert_same_bits(permuted, reference.gather_rows(x, source))
    probs = torch.full((5, top_k), 0.5, device=device)
    y = ops.unpermute(permuted, row_id_map, probs)
    assert_same_bits(y, x * (top_k / 2))


@pytest.mark.small
@pytest.mark.parametrize("hidden", [1, 3, 5, 9, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_rows_that_are_no_multiple_of_16_bytes_are_neither_overread_nor_overwritten(
    device, dtype, hidden
):
    x = random_activations(7, hidden, dtype, device)
    indices = random_indices(7, 2, 4, device)
    permuted, row_id_map = ops.permute(fenced(x), indices)
    _, source = reference.row_map(indices)
    assert_same_bits(permuted, reference.gather_rows(x, source))
    probs = torch.full((7, 2), 0.5, device=device)
    y = ops.unpermute(fenced(permuted), row_id_map, probs)
    assert_same_bits(y, x)


def test_no_workspace_is_kept_between_calls_or_shared_between_shapes(device):
    for tokens in (5, 700, 3, 2000, 1):
        x = random_activations(tokens, 8, torch.bfloat16, device)
        indices = random_indices(tokens, 2, 4, device)
        permuted, _ = ops.permute(x, indices)
        assert_same_bits(permuted, reference.gather_rows(x, reference.row_map(indices)[1]))
    for owner in (ops, ops.PermuteMoE_topK, backend):
        held = [n for n, v in vars(owner).items() if isinstance(v, torch.Tensor)]
        assert not held, f"{owner} keeps tensors: {held}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_unpermute_does_not_accumulate_in_the_element_type(device, dtype):
    top_k = 64
    rows = torch.full((top_k, 8), 1.0, dtype=dtype, device=device)
    rows[0] = 1024.0 if dtype == torch.float16 else 256.0
    rows[1:] = 0.25
    row_id_map = torch.arange(top_k, dtype=torch.int32, device=device)
    y = ops.unpermute(rows, row_id_map, torch.ones(1, top_k, device=device))
    exact = rows[:, 0].cpu().double().sum()
    assert (y.cpu().double() - exact).abs().max() <= rounding_bound(dtype, exact) / 2


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_works_and_is_not_only_claimed(device, dtype):
    x = random_activations(7, 16, dtype, device)
    indices = random_indices(7, 2, 4, device)
    permuted, row_id_map = ops.permute(x, indices)
    assert permuted.dtype == dtype
    y = ops.unpermute(permuted, row_id_map, torch.full((7, 2), 0.5, device=device))
    assert_same_bits(y, x)


# sinkhorn


def test_sinkhorn_does_not_change_its_argument(device):
    cost = torch.randn(33, 5).to(device)
    before = cost.clone()
    ops.sinkhorn_kernel(cost)
    assert_same_bits(cost, before)


def test_sinkhorn_of_many_rows_does_not_give_back_the_raw_logits(device):
    cost = torch.randn(20000, 4).to(device)
    result, info = grouped_gemm.sinkhorn(cost, return_info=True)
    expected, _ = reference.sinkhorn(cost, int(info.iterations))
    assert_close_elementwise(result, expected, 1e-4 * expected)


def test_sinkhorn_ends_where_the_original_never_does(device):
    cost = torch.full((64, 4), -40.0)
    cost[:, 0] = 40.0
    result = ops.sinkhorn_kernel(cost.to(device), 1e-30)
    assert result.isfinite().all()


def test_sinkhorns_exponential_does_not_overflow(device):
    cost = torch.randn(33, 5) + 200
    assert ops.sinkhorn_kernel(cost.to(device)).isfinite().all()


def test_failures_raise_and_print_nothing(capfd):
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        ops.sinkhorn_kernel(torch.randn(3))
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        ops.gmm(torch.randn(3, 4), torch.randn(1, 5, 4), torch.tensor([3]))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
