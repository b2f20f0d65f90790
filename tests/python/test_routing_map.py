"""A routing map, bool [T, E], instead of expert ids."""

import grouped_gemm
import pytest
import torch
from support.compare import assert_same_bits
from support.shapes import GEMM_DTYPES, random_activations


def random_map(tokens, experts, top_k, device):
    """At most top_k experts a token; some have none."""
    chosen = torch.rand(tokens, experts).argsort(1) < top_k
    chosen[::5, : experts // 2] = False
    return chosen.to(device)


def ids_of(routing_map, top_k):
    rows = [row.nonzero().flatten().tolist()[:top_k] for row in routing_map.cpu()]
    return torch.tensor([row + [-1] * (top_k - len(row)) for row in rows])


@pytest.mark.small
@pytest.mark.parametrize("experts", [1, 5, 33, 130])
@pytest.mark.parametrize("top_k", [1, 3, 40])
def test_a_routing_map_gives_ids_in_order(device, experts, top_k):
    routing_map = random_map(21, experts, top_k, device)
    slots = grouped_gemm.routing_map_to_indices(routing_map, top_k)
    assert slots.probs is None and slots.indices.dtype == torch.int32
    assert slots.indices.tolist() == ids_of(routing_map, top_k).tolist()


@pytest.mark.small
@pytest.mark.parametrize("top_k", [3, None])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_moe_permute_takes_a_routing_map_with_probs_of_every_expert(device, dtype, top_k):
    x = random_activations(21, 8, dtype, device)
    routing_map = random_map(21, 6, 3, device)
    probs = torch.rand(21, 6).to(device).requires_grad_()
    result = grouped_gemm.moe_permute(x, routing_map, topk=top_k, probs=probs)
    # As Megatron defines it: expert by expert, the tokens in order.
    experts, tokens = routing_map.T.nonzero(as_tuple=True)
    kept = len(tokens)
    assert_same_bits(result.permuted[:kept], x[tokens])
    assert not result.permuted[kept:].float().any()
    assert_same_bits(result.permuted_probs[:kept], probs.detach()[tokens, experts])
    assert result.tokens_per_expert.tolist() == routing_map.sum(0).tolist()
    assert result.row_id_map.shape == (6 if top_k is None else top_k, 21)
    result.permuted_probs.sum().backward()
    assert_same_bits(probs.grad, routing_map.float())


def test_experts_beyond_topk_are_dropped(device):
    x = random_activations(21, 8, torch.float32, device)
    routing_map = torch.ones(21, 6, dtype=torch.bool, device=device)
    result = grouped_gemm.moe_permute(x, routing_map, topk=2)
    assert result.tokens_per_expert.tolist() == [21, 21, 0, 0, 0, 0]


def test_bad_routing_maps_are_named(device):
    x = random_activations(21, 8, torch.float32, device)
    routing_map = random_map(21, 6, 3, device)
    ids = torch.zeros(21, 2, dtype=torch.int64, device=device)
    cases = [
        (lambda: grouped_gemm.moe_permute(x, routing_map, num_experts=5), "num_experts.*5.*6"),
        (lambda: grouped_gemm.moe_permute(x, ids), "num_experts.*None"),
        (lambda: grouped_gemm.moe_permute(x, ids, num_experts=5, topk=2), "topk.*2"),
        (lambda: grouped_gemm.moe_permute(x, routing_map, topk=-1), "topk.*-1"),
        (lambda: grouped_gemm.moe_permute(x, routing_map[:5], topk=2), "5.*21"),
        (lambda: grouped_gemm.moe_permute(x, routing_map, topk=2, probs=ids), "probs.*21, 2"),
        (lambda: grouped_gemm.routing_map_to_indices(ids, 2), "routing_map.*bool"),
    ]
    for call, words in cases:
        with pytest.raises((RuntimeError, ValueError, TypeError), match=words):
            call()
