"""moe_permute / moe_unpermute: the native permutation, which knows the number of experts."""

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
    GEMM_DTYPES,
    GROUPS,
    PERMUTE_DTYPES,
    TOP_KS,
    random_activations,
    random_indices,
)

EPSILON32 = torch.finfo(torch.float32).eps


def check(result, x, indices, num_experts):
    permuted, row_id_map, tokens_per_expert, offs = result[:4]
    top_k = indices.shape[1] if indices.dim() == 2 else 1
    mapping, source = reference.row_map(indices, num_experts=num_experts)
    flat = indices.flatten().cpu().long()
    counts = torch.bincount(flat[(flat >= 0) & (flat < num_experts)], minlength=num_experts)
    for tensor in (row_id_map, tokens_per_expert, offs):
        assert tensor.dtype == torch.int32 and tensor.device == x.device
    assert row_id_map.shape == (top_k, indices.shape[0])
    assert row_id_map.flatten().tolist() == mapping
    assert tokens_per_expert.tolist() == counts.tolist()
    assert offs.tolist() == counts.cumsum(0).tolist()
    assert_same_bits(permuted, reference.gather_rows(x, source), "permuted rows")


@pytest.mark.small
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 7, 64])
def test_tokens_are_grouped_and_counted_on_the_device(device, hidden, dtype):
    x = random_activations(19, hidden, dtype, device)
    indices = random_indices(19, 2, 5, device)
    result = grouped_gemm.moe_permute(fenced(x), indices, num_experts=5)
    assert result._fields[:4] == ("permuted", "row_id_map", "tokens_per_expert", "offs")
    assert result.permuted_probs is None and result.permuted_scales is None
    check(result, x, indices, 5)


@pytest.mark.parametrize("top_k", TOP_KS)
def test_any_number_of_experts_per_token(device, top_k):
    x = random_activations(21, 8, torch.float32, device)
    indices = random_indices(21, top_k, 6, device)
    check(grouped_gemm.moe_permute(x, indices, num_experts=6), x, indices, 6)


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_groups_of_every_shape(device, sizes):
    experts = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    indices = experts[torch.randperm(len(experts))].reshape(-1, 1).to(device)
    x = random_activations(len(experts), 16, torch.bfloat16, device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=len(sizes))
    check(result, x, indices, len(sizes))
    assert result.tokens_per_expert.tolist() == sizes


@pytest.mark.small
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_ids_outside_the_experts_are_dropped_and_counted_out(device, index_dtype):
    x = random_activations(65, 8, torch.float32, device)
    info = torch.iinfo(index_dtype)
    choices = torch.tensor([-1, 0, 1, 4, 5, 6, 5000, info.min, info.max])
    indices = choices[torch.randint(0, len(choices), (65, 3))].to(index_dtype).to(device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=5)
    check(result, x, indices, 5)
    kept = int(result.offs[-1])
    assert 0 < kept < 65 * 3
    assert_all_zero(result.permuted[kept:], "rows that dropped slots would have filled")


def test_int64_ids_do_not_wrap_into_the_experts(device):
    x = random_activations(3, 8, torch.float32, device)
    indices = torch.tensor([[2**32], [2**32 + 1], [1]], device=device)
    check(grouped_gemm.moe_permute(x, indices, num_experts=2), x, indices, 2)


@pytest.mark.parametrize("num_experts", [1, 1024, 5000])
def test_few_and_many_experts(device, num_experts):
    x = random_activations(3001, 2, torch.float32, device)
    indices = random_indices(3001, 2, num_experts, device)
    check(grouped_gemm.moe_permute(x, indices, num_experts=num_experts), x, indices, num_experts)


@pytest.mark.small
def test_without_tokens_counts_are_zero(device):
    x = torch.empty(0, 16, device=device)
    indices = torch.empty(0, 2, dtype=torch.int64, device=device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=3)
    assert result.permuted.shape == (0, 16) and result.row_id_map.shape == (2, 0)
    assert result.tokens_per_expert.tolist() == [0, 0, 0] and result.offs.tolist() == [0, 0, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_activations_may_be_unaligned_or_not_contiguous(device, layout):
    x = random_activations(21, 24, torch.bfloat16, device)
    indices = random_indices(21, 2, 6, device)
    check(grouped_gemm.moe_permute(LAYOUTS[layout](x), indices, num_experts=6), x, indices, 6)


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_the_gradient_sums_a_tokens_rows_in_float32(device, dtype):
    x = random_activations(21, 24, dtype, device).requires_grad_()
    indices = random_indices(21, 3, 6, device)
    indices[2, 1], indices[5] = 6, -1
    result = grouped_gemm.moe_permute(x, indices, num_experts=6)
    grad = torch.randn(result.permuted.shape).to(dtype).to(device)
    result.permuted.backward(grad)
    mapping, _ = reference.row_map(indices, num_experts=6)
    expected = reference.unpermute(grad, mapping, 21, 3, dtype=torch.float32)
    assert_same_bits(x.grad, expected.to(dtype))


@pytest.mark.small
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("with_probs", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 9])
def test_moe_unpermute_sums_weighted_or_with_weight_one(device, top_k, with_probs, dtype):
    x = random_activations(21, 24, dtype, device)
    indices = random_indices(21, top_k, 6, device)
    indices[3] = -1
    routed = grouped_gemm.moe_permute(x, indices, num_experts=6)
    rows = torch.randn(routed.permuted.shape).to(dtype).to(device).requires_grad_()
    probs = torch.rand(21, top_k, device=device, requires_grad=True) if with_probs else None
    y = grouped_gemm.moe_unpermute(rows, routed.row_id_map, probs)
    assert y.shape == (21, 24) and y.dtype == dtype
    mapping = routed.row_id_map.flatten()
    expected = reference.unpermute(rows, mapping, 21, top_k, probs)
    magnitude = reference.unpermute(rows.abs(), mapping, 21, top_k, probs)
    bound = rounding_bound(dtype, expected) + top_k * EPSILON32 * magnitude
    assert_close_elementwise(y, expected, bound)
    grad = torch.randn(y.shape).to(dtype).to(device)
    y.backward(grad)
    act_grad, prob_grad = reference.unpermute_grads(grad, rows, mapping, 21, top_k, probs)
    assert_close_elementwise(rows.grad, act_grad, rounding_bound(dtype, act_grad))
    if with_probs:
        _, magnitude = reference.unpermute_grads(grad.abs(), rows.abs(), mapping, 21, top_k)
        assert_close_elementwise(probs.grad, prob_grad, 20 * EPSILON32 * magnitude)


def test_counts_and_offsets_feed_gmm_directly(device):
    x = random_activations(65, 24, torch.float32, device)
    indices = random_indices(65, 2, 5, device)
    indices[::7, 1] = -1
    w = torch.randint(-2, 3, (5, 24, 24)).float().to(device)
    routed = grouped_gemm.moe_permute(x, indices, num_experts=5)
    by_sizes = grouped_gemm.gmm(routed.permuted, w, routed.tokens_per_expert)
    by_offs = grouped_gemm.gmm(routed.permuted, w, offs=routed.offs)
    assert_same_bits(by_sizes, by_offs)
    y = grouped_gemm.moe_unpermute(by_sizes, routed.row_id_map)
    expected = torch.zeros(65, 24, device=device)
    for t, row in enumerate(indices.tolist()):
        for expert in row:
            if expert >= 0:
                expected[t] += x[t] @ w[expert]
    assert_same_bits(y, expected)  # quarters and integers: exact


def test_probs_of_top_1_may_have_one_dimension_on_the_way_back_too(device):
    x = random_activations(65, 24, torch.float32, device)
    routed = grouped_gemm.moe_permute(x, random_indices(65, 1, 5, device)[:, 0], num_experts=5)
    probs = torch.rand(65).to(device).requires_grad_()
    column = probs.detach().unsqueeze(1).requires_grad_()
    y = grouped_gemm.moe_unpermute(routed.permuted, routed.row_id_map, probs)
    expected = grouped_gemm.moe_unpermute(routed.permuted, routed.row_id_map, column)
    assert_same_bits(y.detach(), expected.detach())
    y.sum().backward(), expected.sum().backward()
    assert_same_bits(probs.grad, column.grad[:, 0])


def test_num_experts_must_be_given_by_name(device):
    x, indices = torch.ones(3, 4, device=device), torch.zeros(3, 1, dtype=torch.int64).to(device)
    with pytest.raises(TypeError, match="num_experts"):
        grouped_gemm.moe_permute(x, indices)
    with pytest.raises(TypeError):
        grouped_gemm.moe_permute(x, indices, 3)


@pytest.mark.small
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hidden", [1, 7, 64])
def test_a_residual_is_added_before_the_rounding(device, hidden, layout, dtype):
    x = random_activations(21, hidden, dtype, device)
    residual = random_activations(21, hidden, dtype, device)
    indices = random_indices(21, 3, 6, device)
    indices[4] = -1
    routed = grouped_gemm.moe_permute(x, indices, num_experts=6)
    probs = torch.rand(21, 3).to(device)
    y = grouped_gemm.moe_unpermute(
        routed.permuted, routed.row_id_map, probs, residual=LAYOUTS[layout](residual)
    )
    wide = grouped_gemm.moe_unpermute(routed.permuted.float(), routed.row_id_map, probs)
    assert_same_bits(y, (wide + residual.float()).to(dtype))


@pytest.mark.parametrize("frozen", ["neither", "rows", "residual"])
def test_a_residual_has_the_results_gradient(device, frozen):
    indices = random_indices(21, 3, 6, device)
    row_id_map = grouped_gemm.moe_permute(
        random_activations(21, 8, torch.float32, device), indices, num_experts=6
    ).row_id_map
    rows = torch.randn(63, 8, device=device, requires_grad=frozen != "rows")
    residual = torch.randn(21, 8, device=device, requires_grad=frozen != "residual")
    y = grouped_gemm.moe_unpermute(rows, row_id_map, residual=residual)
    grad = torch.randn(21, 8, device=device)
    y.backward(grad)
    if frozen == "residual":
        assert residual.grad is None
    else:
        assert_same_bits(residual.grad, grad)
    if frozen == "rows":
        assert rows.grad is None
    else:
        assert_same_bits(rows.grad, grouped_gemm.moe_permute(grad, indices, num_experts=6).permuted)


def test_a_residual_of_another_shape_or_dtype_is_named(device):
    x = random_activations(21, 8, torch.float32, device)
    routed = grouped_gemm.moe_permute(x, random_indices(21, 3, 6, device), num_experts=6)
    for residual, words in [(x[:5], "residual.*5, 8.*21, 8"), (x.half(), "residual.*float16")]:
        with pytest.raises(RuntimeError, match=words):
            grouped_gemm.moe_unpermute(routed.permuted, routed.row_id_map, residual=residual)
