"""permute: tokens in expert order, stably, with the map that says where every slot went."""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import LAYOUTS, fenced
from support.compare import (
    assert_all_zero,
    assert_close_elementwise,
    assert_same_bits,
    rounding_bound,
)
from support.shapes import (
    GROUPS,
    HIDDEN_SIZES,
    PERMUTE_DTYPES,
    TOP_KS,
    random_activations,
    random_indices,
)


def check(permuted, row_id_map, x, indices, num_out_tokens=None):
    mapping, source = reference.row_map(indices, num_out_tokens)
    assert row_id_map.dtype == torch.int32 and row_id_map.shape == (len(mapping),)
    assert row_id_map.device == x.device and permuted.device == x.device
    assert row_id_map.tolist() == mapping
    assert_same_bits(permuted, reference.gather_rows(x, source), "permuted rows")


@pytest.mark.small
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
def test_rows_of_any_width_and_dtype_move_bit_for_bit(device, hidden, dtype):
    x = random_activations(19, hidden, dtype, device)
    indices = random_indices(19, 2, 5, device)
    permuted, row_id_map = grouped_gemm.permute(fenced(x), indices)
    check(permuted, row_id_map, x, indices)


@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
def test_long_rows_move_bit_for_bit(device, dtype):
    x = random_activations(33, 7168, dtype, device)
    indices = random_indices(33, 8, 16, device)
    check(*grouped_gemm.permute(x, indices), x, indices)


@pytest.mark.small
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("top_k", TOP_KS)
def test_any_number_of_experts_per_token(device, top_k, index_dtype):
    x = random_activations(21, 8, torch.float32, device)
    indices = random_indices(21, top_k, 6, device, index_dtype)
    check(*grouped_gemm.permute(x, indices), x, indices)


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_groups_of_every_shape(device, sizes):
    experts = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    indices = experts[torch.randperm(len(experts))].reshape(-1, 1).to(device)
    x = random_activations(len(experts), 16, torch.bfloat16, device)
    check(*grouped_gemm.permute(x, indices), x, indices)


@pytest.mark.small
def test_one_dimension_of_indices_means_one_expert_per_token(device):
    x = random_activations(21, 16, torch.bfloat16, device)
    indices = random_indices(21, 1, 6, device)
    flat = grouped_gemm.permute(x, indices[:, 0])
    check(*flat, x, indices)
    assert_same_bits(flat[0], grouped_gemm.permute(x, indices)[0])


@pytest.mark.small
def test_slots_of_one_expert_keep_their_order(device):
    """All slots to one expert, duplicates within a token included: the identity."""
    x = random_activations(130, 4, torch.float32, device)
    indices = torch.full((130, 3), 2, device=device)
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    assert row_id_map.reshape(3, 130).T.flatten().tolist() == list(range(390))
    assert_same_bits(permuted, x.repeat_interleave(3, dim=0))


@pytest.mark.parametrize("num_experts", [2, 64, 257, 4096])
def test_many_tokens_over_many_blocks_of_threads(device, num_experts):
    tokens, top_k = 5003, 4
    x = random_activations(tokens, 2, torch.float32, device)
    indices = random_indices(tokens, top_k, num_experts, device)
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    order = torch.sort(indices.flatten().cpu(), stable=True).indices
    expected = torch.empty(tokens * top_k, dtype=torch.int64)
    expected[order] = torch.arange(tokens * top_k)
    expected = expected.reshape(tokens, top_k).T.flatten()
    assert torch.equal(row_id_map.cpu().long(), expected)
    assert_same_bits(permuted, x[(order // top_k).to(device)])


@pytest.mark.small
@pytest.mark.parametrize("num_out_tokens", [None, 0, 1, 5, 20, 41, 42])
def test_slots_sorted_at_or_beyond_num_out_tokens_are_dropped(device, num_out_tokens):
    x = random_activations(21, 24, torch.bfloat16, device)
    indices = random_indices(21, 2, 6, device)
    result = grouped_gemm.permute(x, indices, num_out_tokens)
    check(*result, x, indices, num_out_tokens)
    assert result[0].shape[0] == (num_out_tokens or 42)


@pytest.mark.small
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
def test_rows_beyond_the_number_of_slots_are_zeros(device, dtype):
    x = random_activations(5, 7, dtype, device)
    indices = random_indices(5, 2, 3, device)
    permuted, row_id_map = grouped_gemm.permute(x, indices, 33)
    check(permuted, row_id_map, x, indices, 33)
    assert_all_zero(permuted[10:].float())


@pytest.mark.small
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("num_out_tokens", [None, 7, 30, 60])
def test_negative_ids_are_dropped_and_no_group_shifts(device, num_out_tokens, index_dtype):
    x = random_activations(21, 8, torch.float32, device)
    indices = random_indices(21, 2, 6, device, index_dtype)
    indices[torch.rand(21, 2).to(device) < 0.3] = -1
    indices[4, 0] = torch.iinfo(index_dtype).min
    indices[9] = -1  # a whole token
    check(*grouped_gemm.permute(x, indices, num_out_tokens), x, indices, num_out_tokens)


@pytest.mark.parametrize("negative", [-1, -(2**31)])
def test_with_every_slot_dropped_all_rows_are_zeros(device, negative):
    x = random_activations(21, 8, torch.float32, device)
    indices = torch.full((21, 2), negative, device=device)
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    assert permuted.shape == (42, 8)
    assert_all_zero(permuted)
    assert (row_id_map == -1).all()


HUGE_IDS = {
    "one sentinel, the largest int64": [0, 1, 2, 2**63 - 1],
    "one sentinel, the largest int32": [0, 1, 2, 2**31 - 1],
    "just below and just above 4096": [4094, 4095, 4096, 4097],
    "beyond 32 bits, equal modulo 2^32": [1, 1 + 2**32, 1 + 2**33, 3],
    "large, distinct and negative": [2**40, 2**40 + 1, -(2**40), 2**63 - 1],
    "all of them the sentinel": [2**63 - 1],
    "all of them one large id": [5000],
}


@pytest.mark.small
@pytest.mark.parametrize("ids", HUGE_IDS.values(), ids=HUGE_IDS)
def test_ids_sort_as_integers_however_large(device, ids):
    x = random_activations(65, 8, torch.float32, device)
    indices = torch.tensor(ids)[torch.randint(0, len(ids), (65, 2))].to(device)
    check(*grouped_gemm.permute(x, indices), x, indices)


def test_many_distinct_large_ids_sort_as_integers(device):
    x = random_activations(1001, 2, torch.float32, device)
    indices = torch.randint(0, 2**62, (1001, 3)).to(device)
    check(*grouped_gemm.permute(x, indices), x, indices)


@pytest.mark.parametrize("top_k", [1, 2])
def test_without_tokens_the_result_is_empty_and_the_map_a_tensor(device, top_k):
    x = torch.empty(0, 16, device=device, requires_grad=True)
    indices = torch.empty(0, top_k, dtype=torch.int64, device=device)
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    assert permuted.shape == (0, 16) and row_id_map.shape == (0,)
    assert row_id_map.dtype == torch.int32 and permuted.requires_grad
    permuted.sum().backward()
    assert x.grad.shape == (0, 16)


def test_without_tokens_rows_asked_for_are_zeros(device):
    x = torch.empty(0, 16, device=device)
    permuted, _ = grouped_gemm.permute(x, torch.empty(0, 2, dtype=torch.int64, device=device), 5)
    assert permuted.shape == (5, 16)
    assert_all_zero(permuted)


def test_rows_of_no_width_still_give_the_map(device):
    indices = random_indices(9, 2, 4, device)
    permuted, row_id_map = grouped_gemm.permute(torch.empty(9, 0, device=device), indices)
    assert permuted.shape == (18, 0)
    assert row_id_map.tolist() == reference.row_map(indices)[0]


@pytest.mark.small
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_activations_may_be_unaligned_or_not_contiguous(device, dtype, layout):
    x = random_activations(21, 24, dtype, device)
    indices = random_indices(21, 2, 6, device)
    check(*grouped_gemm.permute(LAYOUTS[layout](x), indices), x, indices)


def test_indices_may_be_a_strided_view(device):
    x = random_activations(21, 24, torch.float32, device)
    wide = random_indices(21, 5, 6, device)
    for indices in (wide[:, 1:3], wide.T.contiguous().T, wide[:, 2]):
        check(*grouped_gemm.permute(x, indices), x, indices)


def test_max_token_num_has_no_effect(device):
    x = random_activations(21, 24, torch.float32, device)
    indices = random_indices(21, 2, 6, device)
    for max_token_num in (0, 1, 21, 4096):
        result = grouped_gemm.permute(x, indices, None, max_token_num)
        check(*result, x, indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("top_k", "num_out_tokens"), [(1, None), (2, None), (3, 40), (9, 300)])
def test_the_gradient_sums_a_tokens_rows_in_float32(device, top_k, num_out_tokens, dtype):
    x = random_activations(21, 24, dtype, device).requires_grad_()
    indices = random_indices(21, top_k, 6, device)
    indices[5] = -1
    permuted, row_id_map = grouped_gemm.permute(x, indices, num_out_tokens)
    grad = torch.randn(permuted.shape).to(dtype).to(device)
    permuted.backward(grad)
    mapping, _ = reference.row_map(indices, num_out_tokens)
    expected = reference.unpermute(grad, mapping, 21, top_k, dtype=torch.float32)
    assert_same_bits(x.grad, expected.to(dtype), "gradient")
    assert_all_zero(x.grad[5], "gradient of a dropped token")


@pytest.mark.small
@pytest.mark.parametrize("layout", [*LAYOUTS, "expanded"])
def test_the_incoming_gradient_may_have_any_layout(device, layout):
    x = random_activations(21, 24, torch.bfloat16, device).requires_grad_()
    indices = random_indices(21, 2, 6, device)
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    grad = torch.randn(permuted.shape).bfloat16().to(device)
    grad = grad[:1, :1].expand(permuted.shape) if layout == "expanded" else LAYOUTS[layout](grad)
    permuted.backward(grad)
    expected = reference.unpermute(grad, row_id_map.tolist(), 21, 2)
    assert_close_elementwise(x.grad, expected, rounding_bound(torch.bfloat16, expected))


def test_the_map_is_no_gradients_business(device):
    x = random_activations(21, 24, torch.float32, device).requires_grad_()
    permuted, row_id_map = grouped_gemm.permute(x, random_indices(21, 2, 6, device))
    assert permuted.requires_grad and not row_id_map.requires_grad


def test_the_same_call_gives_the_same_bits(device):
    x = random_activations(1000, 24, torch.bfloat16, device).requires_grad_()
    indices = random_indices(1000, 8, 32, device)
    runs = []
    for _ in range(3):
        permuted, row_id_map = grouped_gemm.permute(x, indices)
        (grad,) = torch.autograd.grad(permuted.square().sum(), x)
        runs.append((permuted, row_id_map, grad))
    for run in runs[1:]:
        for actual, expected in zip(run, runs[0], strict=True):
            assert_same_bits(actual, expected)


def test_dtypes_and_shapes_may_alternate_from_call_to_call(device):
    for step, dtype in enumerate(PERMUTE_DTYPES + PERMUTE_DTYPES[::-1]):
        x = random_activations(5 + 40 * (step % 3), 7 + step, dtype, device)
        indices = random_indices(x.shape[0], 1 + step % 4, 6, device)
        check(*grouped_gemm.permute(x, indices), x, indices)
