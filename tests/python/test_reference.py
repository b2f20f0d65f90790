"""The operators equal the plain formulas of `grouped_gemm.reference`, gradients included.

One routing with empty groups, dropped slots and duplicate experts; the edge cases of each operator
stand in its own file.
"""

import grouped_gemm
import pytest
import torch
from grouped_gemm import reference
from support.routing import VARIANTS, keywords

T, K, N, E, TOP_K = 23, 8, 6, 5, 3


def assert_same_function(function, formula, *inputs):
    """Equal results and equal gradients to every input that has one."""
    result, expected = function(*inputs), formula(*inputs)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    inputs = [x for x in inputs if x.requires_grad]
    dy = torch.randn_like(expected)
    gradients = torch.autograd.grad(result, inputs, dy)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, inputs, dy), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


def random(device, *shape):
    return torch.randn(*shape, device=device, requires_grad=True)


@pytest.fixture
def indices(device):
    """Experts -1 to 5 of 5: some slots are dropped; expert 2 is never chosen."""
    ids = torch.randint(-1, E + 1, (T, TOP_K), device=device)
    return torch.where(ids == 2, 1, ids)


@pytest.mark.parametrize("trans_b", [False, True])
def test_gmm_is_its_formula(device, trans_b):
    sizes = torch.tensor([7, 0, 1, 9, 3])
    a, b = random(device, T, K), random(device, E, *((N, K) if trans_b else (K, N)))
    assert_same_function(
        lambda a, b: grouped_gemm.gmm(a, b, sizes, trans_b),
        lambda a, b: reference.gmm(a, b, sizes, trans_b),
        a,
        b,
    )


def test_gmm_wgrad_is_its_formula(device):
    sizes = torch.tensor([7, 0, 1, 9, 3])
    a, dy = torch.randn(T, K, device=device), torch.randn(T, N, device=device)
    torch.testing.assert_close(
        grouped_gemm.gmm_wgrad(a, dy, sizes), reference.gmm_wgrad(a, dy, sizes)
    )


@pytest.mark.parametrize("num_out_tokens", [None, 20, 100])
def test_permute_and_unpermute_are_their_formulas(device, indices, num_out_tokens):
    x, probs = random(device, T, K), random(device, T, TOP_K)
    _, row_id_map = grouped_gemm.permute(x, indices, num_out_tokens)
    _, expected_map = reference.permute(x, indices, num_out_tokens)
    assert torch.equal(row_id_map, expected_map)

    def through(module):
        def function(x, probs):
            rows, row_id_map = module.permute(x, indices, num_out_tokens)
            return module.unpermute(rows.sin(), row_id_map, probs)

        return function

    assert_same_function(through(grouped_gemm), through(reference), x, probs)


def test_moe_permute_and_moe_unpermute_are_their_formulas(device, indices):
    x, probs = random(device, T, K), random(device, T, TOP_K)
    actual = grouped_gemm.moe_permute(x, indices, num_experts=E)
    expected = reference.moe_permute(x, indices, num_experts=E)
    assert actual.tokens_per_expert[2] == 0
    for one, other in zip(actual[:4], expected, strict=True):
        assert torch.equal(one, other)

    def through(module):
        def function(x, probs):
            rows, row_id_map, *_ = module.moe_permute(x, indices, num_experts=E)
            return module.moe_unpermute(rows.sin(), row_id_map, probs)

        return function

    assert_same_function(through(grouped_gemm), through(reference), x, probs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_moe_route_is_its_formula(device, variant):
    logits = torch.randn(40, 16, device=device)
    options = keywords(variant, 16, device)
    actual = grouped_gemm.moe_route(logits, 3, **options)
    expected = reference.moe_route(logits.double(), 3, **options)
    assert torch.equal(actual.indices.long(), expected.indices)
    assert torch.equal(actual.tokens_per_expert.long(), expected.tokens_per_expert)
    torch.testing.assert_close(actual.probs.double(), expected.probs, rtol=1e-5, atol=1e-7)


def test_sinkhorn_is_its_formula(device):
    cost = torch.randn(T, E, device=device)
    result = grouped_gemm.ops.sinkhorn_kernel(cost)
    torch.testing.assert_close(result, reference.sinkhorn(cost), rtol=1e-4, atol=1e-6)
