"""moe_permute where an expert keeps so many slots at most: the first, or those of highest probs."""

import grouped_gemm
import pytest
import torch
from support.permuted import check, groups_of
from support.shapes import GEMM_DTYPES, random_activations, random_indices


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
