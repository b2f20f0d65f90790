"""What moe_permute can do besides: probs and scales carried along, groups padded."""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import fenced
from support.compare import assert_all_zero, assert_same_bits
from support.shapes import (
    GEMM_DTYPES,
    GROUPS,
    PERMUTE_DTYPES,
    random_activations,
    random_indices,
)

ALIGN_SIZES = [1, 2, 16, 32, 128]


def groups_of(indices, num_experts):
    """The slots of each expert in order, worked out by a loop."""
    table = (indices if indices.dim() == 2 else indices.unsqueeze(1)).tolist()
    top_k = len(table[0]) if table else 1
    groups = [[] for _ in range(num_experts)]
    for t, row in enumerate(table):
        for k, expert in enumerate(row):
            if 0 <= expert < num_experts:
                groups[expert].append(t * top_k + k)
    return groups


def check(result, x, indices, groups, align_size=1, probs=None, scales=None):
    """Everything that a routing into these groups says of the result. Returns row -> slot."""
    tokens = indices.shape[0]
    top_k = indices.shape[1] if indices.dim() == 2 else 1
    slots, ends = [], []
    for group in groups:
        slots += group + [-1] * (-len(group) % align_size)
        ends.append(len(slots))
    assert len(slots) <= result.permuted.shape[0]
    slots += [-1] * (result.permuted.shape[0] - len(slots))
    expected_map = torch.full((top_k, tokens), -1, dtype=torch.int32)
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected_map[slot % top_k, slot // top_k] = row
    assert result.tokens_per_expert.tolist() == [len(group) for group in groups]
    assert result.offs.tolist() == ends
    assert torch.equal(result.row_id_map.cpu(), expected_map)
    source = [slot // top_k if slot >= 0 else -1 for slot in slots]
    assert_same_bits(result.permuted, reference.gather_rows(x, source), "permuted rows")
    if scales is not None:
        expected = reference.gather_rows(scales, source)
        assert_same_bits(result.permuted_scales, expected, "permuted scales")
    if probs is not None:
        expected = reference.gather_rows(probs.reshape(-1, 1), slots)[:, 0]
        assert_same_bits(result.permuted_probs, expected, "permuted probs")
    return slots


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


def kept_by(groups, capacity, probs=None):
    """What is left of each group, and in which order: of the highest probs, or of the first."""
    if probs is None:
        return [group[:capacity] for group in groups]
    flat = probs.flatten().tolist()
    kept = []
    for group in groups:
        best = sorted(group, key=lambda slot: (-flat[slot], slot))
        kept.append(sorted(best[:capacity]))
    return kept


@pytest.mark.small
@pytest.mark.parametrize("align_size", [1, 16])
@pytest.mark.parametrize("drop_policy", ["position", "probs"])
@pytest.mark.parametrize("capacity", [0, 1, 5, 1000])
def test_an_expert_keeps_its_capacity(device, capacity, drop_policy, align_size):
    x = random_activations(33, 8, torch.bfloat16, device)
    indices = random_indices(33, 3, 5, device)
    indices[2], indices[4, 1] = -1, 5
    probs = torch.rand(33, 3).to(device)
    result = grouped_gemm.moe_permute(
        x,
        indices,
        num_experts=5,
        probs=probs,
        align_size=align_size,
        capacity=capacity,
        drop_policy=drop_policy,
    )
    groups = groups_of(indices, 5)
    kept = kept_by(groups, capacity, probs if drop_policy == "probs" else None)
    check(result, x, indices, kept, align_size, probs)
    most = -(-capacity // align_size) * align_size
    assert result.permuted.shape[0] <= 5 * most


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_of_equal_probs_the_first_slots_are_kept(device, dtype):
    x = random_activations(200, 8, torch.bfloat16, device)
    indices = random_indices(200, 2, 3, device)
    probs = torch.randint(0, 4, (200, 2)).to(dtype).to(device) / 4
    result = grouped_gemm.moe_permute(
        x, indices, num_experts=3, probs=probs, capacity=60, drop_policy="probs"
    )
    check(result, x, indices, kept_by(groups_of(indices, 3), 60, probs), 1, probs)


def test_dropped_slots_have_no_part_in_forward_or_gradient(device):
    x = random_activations(33, 8, torch.float32, device).requires_grad_()
    indices = random_indices(33, 2, 5, device)
    probs = torch.rand(33, 2).to(device).requires_grad_()
    result = grouped_gemm.moe_permute(
        x, indices, num_experts=5, probs=probs, capacity=4, drop_policy="probs"
    )
    y = grouped_gemm.moe_unpermute(
        result.permuted * result.permuted_probs[:, None], result.row_id_map
    )
    y.sum().backward()
    kept = (result.row_id_map.T >= 0).float()
    assert 0 < kept.sum() <= 20
    expected = (kept * probs.detach()).sum(1, keepdim=True).expand(33, 8)
    torch.testing.assert_close(x.grad, expected)
    torch.testing.assert_close(probs.grad, kept * x.detach().sum(1, keepdim=True))


@pytest.mark.parametrize(("keywords", "words"), [
    ({"capacity": -1}, ["capacity", "-1"]),
    ({"capacity": 3, "drop_policy": "best"}, ["drop_policy", "best", "position"]),
    ({"capacity": 3, "drop_policy": "probs"}, ["drop_policy", "without probs"]),
])  # fmt: skip
def test_bad_capacities_are_named(device, keywords, words):
    x, indices = random_activations(19, 8, torch.float32, device), random_indices(19, 3, 5, device)
    with pytest.raises((RuntimeError, ValueError)) as error:
        grouped_gemm.moe_permute(x, indices, num_experts=5, **keywords)
    for word in ("moe_permute", *words):
        assert error.match(word)
