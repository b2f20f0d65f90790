"""Row maps of many slots, and calls that follow each other without pause."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops
from support.compare import assert_same_bits
from support.shapes import random_indices

pytestmark = pytest.mark.cuda


def test_very_many_tokens_are_routed_rightly_and_repeatably():
    tokens, top_k = 200_000, 8
    indices = random_indices(tokens, top_k, 256, "cuda")
    x = torch.arange(tokens, device="cuda", dtype=torch.float32)[:, None]
    permuted, row_id_map = ops.permute(x, indices)
    order = torch.sort(indices.flatten(), stable=True).indices
    assert torch.equal(permuted[:, 0].long(), order // top_k)
    expected = torch.empty_like(order)
    expected[order] = torch.arange(tokens * top_k, device="cuda")
    assert torch.equal(row_id_map.long(), expected.reshape(tokens, top_k).T.flatten())
    for _ in range(3):
        assert torch.equal(ops.permute(x, indices)[1], row_id_map)


def sorted_by_torch(indices, num_experts):
    """row_id_map [topK, T] and tokens_per_expert by PyTorch's stable sort."""
    flat = indices.flatten()
    order = torch.sort(flat, stable=True).indices
    rows = torch.empty_like(order)
    rows[order] = torch.arange(flat.numel(), device=flat.device)
    return rows.view(indices.shape).T, torch.bincount(flat, minlength=num_experts)


@pytest.mark.parametrize("num_experts", [100, 600])
def test_more_slots_of_an_expert_in_one_block_than_16_bits_count(num_experts):
    tokens = (1 << 21) + 5
    indices = random_indices(tokens, 8, num_experts, "cuda", torch.int32)
    indices[: tokens // 2] = 7
    x = torch.empty(tokens, 0, device="cuda")
    result = grouped_gemm.moe_permute(x, indices, num_experts=num_experts)
    row_id_map, counts = sorted_by_torch(indices, num_experts)
    assert torch.equal(result.row_id_map.long(), row_id_map)
    assert torch.equal(result.tokens_per_expert.long(), counts)
    assert torch.equal(ops.permute(x, indices)[1].long(), row_id_map.flatten())


@pytest.mark.parametrize("tokens", [4096, 1 << 17])
def test_one_expert_takes_every_slot(tokens):
    indices = torch.full((tokens, 8), 5, device="cuda")
    indices[tokens // 3, 2] = 99
    x = torch.empty(tokens, 0, device="cuda")
    result = grouped_gemm.moe_permute(x, indices, num_experts=128)
    row_id_map, counts = sorted_by_torch(indices, 128)
    assert torch.equal(result.row_id_map.long(), row_id_map)
    assert torch.equal(result.tokens_per_expert.long(), counts)
    assert torch.equal(result.offs.long(), counts.cumsum(0))


@pytest.mark.parametrize("tokens", [100, 5000, 40_000])
def test_calls_that_follow_each_other_without_pause_do_not_overtake(tokens):
    """A call's kernels start before the one in front has ended; their results must not."""
    x = torch.randn(tokens, 72, device="cuda").bfloat16()
    probs = torch.rand(tokens, 4, device="cuda")
    routings = [random_indices(tokens, 4, 24, "cuda") for _ in range(40)]
    torch.cuda.synchronize()
    results = []
    for indices in routings:
        rows = x * 2  # written just before it is read
        permuted = grouped_gemm.moe_permute(rows, indices, num_experts=24)
        permuted.permuted.requires_grad_()
        y = grouped_gemm.moe_unpermute(permuted.permuted, permuted.row_id_map, probs)
        (grad,) = torch.autograd.grad(y, permuted.permuted, x)
        results.append((permuted, grad))
    torch.cuda.synchronize()
    for indices, (permuted, grad) in zip(routings, results, strict=True):
        row_id_map, _ = sorted_by_torch(indices, 24)
        assert torch.equal(permuted.row_id_map.long(), row_id_map)
        token = torch.empty(tokens * 4, dtype=torch.int64, device="cuda")
        token[row_id_map] = torch.arange(tokens, device="cuda")
        assert_same_bits(permuted.permuted.detach(), (x * 2)[token])
        weights = torch.empty(tokens * 4, device="cuda")
        weights[row_id_map] = probs.T.contiguous()
        assert_same_bits(grad, (weights[:, None] * x[token].float()).bfloat16())


@pytest.mark.parametrize("tokens", [1, 700, 16_384, 16_500, 33_000, 270_000])
@pytest.mark.parametrize("hidden", [8, 5])
def test_rows_that_no_slot_names_get_no_gradient(tokens, hidden):
    """Maps of up to 2^16 slots and longer ones: their rows are told apart in two ways."""
    num_rows = tokens * 4 + 100_000
    rows = torch.randn(num_rows, hidden, device="cuda").bfloat16().requires_grad_()
    row_id_map = torch.randperm(num_rows, device="cuda")[: tokens * 4].int().view(4, tokens)
    row_id_map[torch.rand(row_id_map.shape, device="cuda") < 0.1] = -1
    probs = torch.rand(tokens, 4, device="cuda", requires_grad=True)
    y = grouped_gemm.moe_unpermute(rows, row_id_map, probs)
    grad = torch.randn(tokens, hidden, device="cuda").bfloat16()
    (rows_grad,) = torch.autograd.grad(y, rows, grad)
    expected = torch.zeros(num_rows, hidden, device="cuda")
    kept = (row_id_map >= 0).T  # [T, topK]
    weighted = probs.detach()[..., None] * grad[:, None].float()
    expected[row_id_map.T[kept].long()] = weighted[kept]
    assert_same_bits(rows_grad, expected.bfloat16())


@pytest.mark.parametrize(
    ("hidden", "topk"), [(2048, 8), (4096, 8), (5120, 8), (7168, 8), (7168, 4), (9000, 8)]
)
def test_large_outputs_of_long_rows(hidden, topk):
    """Fewer blocks share a multiprocessor there, some of them larger."""
    tokens = (128 << 20) // (hidden * topk * 2) + 77
    x = torch.randn(tokens, hidden, device="cuda").bfloat16()
    indices = random_indices(tokens, topk, 40, "cuda")
    indices[5] = -1
    result = grouped_gemm.moe_permute(x, indices, num_experts=40)
    order = torch.sort(indices.flatten().where(indices.flatten() >= 0, 40), stable=True).indices
    kept = tokens * topk - topk
    assert torch.equal(result.permuted[:kept], x[order[:kept] // topk])
    assert not result.permuted[kept:].any()
