"""What moe_permute can do besides: probs and scales carried along, groups padded.

How many slots an expert keeps: test_permute_capacity.py.
"""

import grouped_gemm
import pytest
import torch
from support.buffers import fenced
from support.compare import assert_all_zero, assert_same_bits
from support.permuted import check, groups_of
from support.shapes import (
    GEMM_DTYPES,
    GROUPS,
    PERMUTE_DTYPES,
    random_activations,
    random_indices,
)

ALIGN_SIZES = [1, 2, 16, 32, 128]


@pytest.mark.small
@pytest.mark.parametrize("align_size", [1, 16])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_probs_travel_with_their_rows(device, dtype, align_size):
    x = random_activations(19, 8, torch.bfloat16, device)
    indices = random_indices(19, 3, 5, device)
    indices[2], indices[4, 1] = -1, 5
    probs = torch.rand(19, 3).to(dtype).to(device)
    result = grouped_gemm.moe_permute(
        x, indices, num_experts=5, probs=fenced(probs), align_size=align_size
    )
    check(result, x, indices, groups_of(indices, 5), align_size, probs)


@pytest.mark.small
@pytest.mark.parametrize("one_dimension", [False, True])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_the_gradient_of_probs_comes_back_with_the_rows(device, dtype, one_dimension):
    x = random_activations(19, 8, torch.bfloat16, device)
    indices = random_indices(19, 1 if one_dimension else 3, 5, device)
    indices[2], indices[4, 0] = -1, 5
    probs = torch.rand(indices.shape).to(dtype).to(device)
    if one_dimension:
        indices, probs = indices[:, 0], probs[:, 0].contiguous()
    probs.requires_grad_()
    result = grouped_gemm.moe_permute(x, indices, num_experts=5, probs=probs, align_size=16)
    grad = torch.randn(result.permuted_probs.shape).to(dtype).to(device)
    result.permuted_probs.backward(grad)
    row = result.row_id_map.T.reshape(probs.shape).long()
    expected = torch.where(row >= 0, grad[row.clamp(min=0)], 0)
    assert probs.grad.dtype == dtype
    assert_same_bits(probs.grad, expected)
    assert x.grad is None


@pytest.mark.parametrize("frozen", ["neither", "x", "probs"])
def test_rows_and_probs_have_gradients_in_any_subset(device, frozen):
    x = random_activations(19, 8, torch.float32, device).requires_grad_(frozen != "x")
    indices = random_indices(19, 2, 5, device)
    probs = torch.rand(19, 2, device=device).requires_grad_(frozen != "probs")
    result = grouped_gemm.moe_permute(x, indices, num_experts=5, probs=probs, align_size=32)
    (result.permuted * result.permuted_probs[:, None]).sum().backward()
    ones = torch.ones(19, 8, device=device)
    if frozen == "x":
        assert x.grad is None
    else:
        torch.testing.assert_close(x.grad, probs.detach().sum(1, keepdim=True) * ones)
    if frozen == "probs":
        assert probs.grad is None
    else:
        expected = x.detach().sum(1, keepdim=True).expand(19, 2)
        torch.testing.assert_close(probs.grad, expected)


@pytest.mark.small
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
@pytest.mark.parametrize("align_size", ALIGN_SIZES)
def test_groups_are_padded_with_zeros(device, align_size, dtype):
    for hidden in (1, 7, 64):
        x = random_activations(21, hidden, dtype, device)
        indices = random_indices(21, 2, 6, device)
        indices[indices == 3] = -1
        result = grouped_gemm.moe_permute(fenced(x), indices, num_experts=6, align_size=align_size)
        check(result, x, indices, groups_of(indices, 6), align_size)


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_padded_groups_of_every_shape(device, sizes):
    experts = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    indices = experts[torch.randperm(len(experts))].reshape(-1, 1).to(device)
    x = random_activations(len(experts), 16, torch.bfloat16, device)
    probs = torch.rand(indices.shape).to(device)
    result = grouped_gemm.moe_permute(
        x, indices, num_experts=len(sizes), probs=probs, align_size=16
    )
    check(result, x, indices, groups_of(indices, len(sizes)), 16, probs)


@pytest.mark.parametrize("num_experts", [1, 1024, 5000])
@pytest.mark.parametrize("tokens", [1500, 40_000])
def test_few_and_many_padded_experts(device, tokens, num_experts):
    x = random_activations(tokens, 2, torch.float32, device)
    indices = random_indices(tokens, 2, num_experts, device)
    probs = torch.rand(tokens, 2).to(device)
    result = grouped_gemm.moe_permute(
        x, indices, num_experts=num_experts, probs=probs, align_size=32
    )
    check(result, x, indices, groups_of(indices, num_experts), 32, probs)


@pytest.mark.parametrize(("tokens", "num_experts", "align_size", "rows"), [
    (10, 4, 1, 10),
    (10, 4, 16, 64),  # four groups of at most ten slots
    (3, 100, 16, 48),  # at most three groups
    (0, 4, 16, 0),
    (33, 1, 16, 48),
])  # fmt: skip
def test_the_output_has_as_many_rows_as_any_routing_may_need(
    device, tokens, num_experts, align_size, rows
):
    x = random_activations(tokens, 4, torch.float32, device)
    indices = random_indices(tokens, 1, num_experts, device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=num_experts, align_size=align_size)
    assert result.permuted.shape == (rows, 4)
    check(result, x, indices, groups_of(indices, num_experts), align_size)


def test_gradients_of_pad_rows_reach_no_token(device):
    x = random_activations(21, 8, torch.float32, device).requires_grad_()
    indices = random_indices(21, 2, 6, device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=6, align_size=16)
    slots = check(result, x, indices, groups_of(indices, 6), 16)
    grad = torch.ones_like(result.permuted)
    grad[torch.tensor(slots) < 0] = torch.nan
    result.permuted.backward(grad)
    assert_same_bits(x.grad, torch.full((21, 8), 2.0))


def test_pad_rows_get_zero_gradients_from_the_way_back(device):
    x = random_activations(21, 8, torch.float32, device)
    indices = random_indices(21, 2, 6, device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=6, align_size=16)
    slots = check(result, x, indices, groups_of(indices, 6), 16)
    rows = result.permuted.clone().requires_grad_()
    grouped_gemm.moe_unpermute(rows, result.row_id_map).sum().backward()
    assert_all_zero(rows.grad[torch.tensor(slots) < 0], "gradients of rows without a slot")
    assert bool((rows.grad[torch.tensor(slots) >= 0] == 1).all())


def test_padded_groups_feed_gmm(device):
    x = torch.randint(-2, 3, (65, 24)).float().to(device)
    indices = random_indices(65, 2, 5, device)
    w = torch.randint(-2, 3, (5, 24, 24)).float().to(device)
    plain = grouped_gemm.moe_permute(x, indices, num_experts=5)
    padded = grouped_gemm.moe_permute(x, indices, num_experts=5, align_size=16)
    y = [
        grouped_gemm.moe_unpermute(grouped_gemm.gmm(r.permuted, w, offs=r.offs), r.row_id_map)
        for r in (plain, padded)
    ]
    assert_same_bits(y[0], y[1])


@pytest.mark.small
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES[-2:], ids=str)
@pytest.mark.parametrize("blocks", [1, 3, 56])
def test_the_scales_of_float8_rows_travel_with_them(device, blocks, dtype):
    x = random_activations(19, 16 * blocks, dtype, device)
    scales = torch.rand(19, blocks).to(device)
    indices = random_indices(19, 3, 5, device)
    indices[2] = -1
    result = grouped_gemm.moe_permute(
        x, indices, num_experts=5, scales=fenced(scales), align_size=16
    )
    check(result, x, indices, groups_of(indices, 5), 16, scales=scales)


def test_scales_may_be_columns_of_a_larger_tensor(device):
    """As a quantizer that writes scales feature-major gives them."""
    x = random_activations(19, 16, torch.float8_e4m3fn, device)
    scales = torch.rand(4, 19).to(device).T
    indices = random_indices(19, 3, 5, device)
    result = grouped_gemm.moe_permute(x, indices, num_experts=5, scales=scales)
    check(result, x, indices, groups_of(indices, 5), scales=scales)


@pytest.mark.parametrize(("keywords", "words"), [
    ({"align_size": 0}, ["align_size", "0"]),
    ({"align_size": -16}, ["align_size", "-16"]),
    ({"align_size": 2**31}, ["align_size", "2147483648"]),
    ({"align_size": 2**30}, ["align_size", "rows"]),
    ({"probs": torch.rand(19, 2)}, ["probs", r"\[19, 2\]", r"\[19, 3\]"]),
    ({"probs": torch.ones(19, 3, dtype=torch.int32)}, ["probs", "int32", "float32"]),
    ({"scales": torch.rand(18, 2)}, ["scales", r"\[18, 2\]", r"\[19, 2\]"]),
    ({"scales": torch.rand(19)}, ["scales", "1 dimensions"]),
    ({"scales": torch.rand(19, 2).half()}, ["scales", "float16", "float32"]),
])  # fmt: skip
def test_bad_options_are_named(device, keywords, words):
    x, indices = random_activations(19, 8, torch.float32, device), random_indices(19, 3, 5, device)
    keywords = {k: v.to(device) if hasattr(v, "to") else v for k, v in keywords.items()}
    with pytest.raises((RuntimeError, ValueError)) as error:
        grouped_gemm.moe_permute(x, indices, num_experts=5, **keywords)
    for word in ("moe_permute", *words):
        assert error.match(word)


@pytest.mark.parametrize("options", [{}, {"align_size": 16, "capacity": 4}], ids=str)
def test_compiled_as_one_graph_with_gradients(device, options):
    x = random_activations(19, 8, torch.float32, device)
    indices = random_indices(19, 3, 5, device)
    probs = torch.rand(19, 3, device=device)

    def function(x, probs):
        r = grouped_gemm.moe_permute(x, indices, num_experts=5, probs=probs, **options)
        return grouped_gemm.moe_unpermute(r.permuted * r.permuted_probs[:, None], r.row_id_map)

    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        leaves = [x.clone().requires_grad_(), probs.clone().requires_grad_()]
        y = call(*leaves)
        y.square().sum().backward()
        results.append((y, leaves[0].grad, leaves[1].grad))
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)
