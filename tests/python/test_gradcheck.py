"""Numerical gradients in float64 on the CPU: every differentiable operator, every input."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops
from support.routing import VARIANTS, keywords
from support.shapes import random_indices
from torch.autograd import gradcheck

SIZES = torch.tensor([2, 0, 3])


def float64(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("extra_rows", [0, 2])
def test_gmm(trans_b, extra_rows):
    b = float64(3, 2, 4) if trans_b else float64(3, 4, 2)
    assert gradcheck(lambda a, b: ops.gmm(a, b, SIZES, trans_b), (float64(5 + extra_rows, 4), b))


def test_gmm_by_offsets_and_with_strided_operands():
    offs = torch.tensor([2, 2, 5], dtype=torch.int32)

    def function(a, b):
        return ops.gmm(a.mT, b.transpose(0, 1), offs=offs)

    assert gradcheck(function, (float64(4, 5), float64(4, 3, 2)))


@pytest.mark.parametrize("form", ["2d by 3d", "2d by 2d", "3d by 3d"])
def test_grouped_mm(form):
    offs = torch.tensor([2, 2, 5], dtype=torch.int32)
    a, b, keywords = {
        "2d by 3d": (float64(5, 4), float64(3, 4, 2), {"offs": offs}),
        "2d by 2d": (float64(4, 5), float64(5, 2), {"offs": offs}),
        "3d by 3d": (float64(3, 2, 4), float64(3, 4, 2), {}),
    }[form]
    assert gradcheck(lambda a, b: grouped_gemm.grouped_mm(a, b, **keywords), (a, b))


@pytest.mark.parametrize("num_out_tokens", [None, 5, 20])
def test_permute(num_out_tokens):
    indices = random_indices(6, 2, 4)
    indices[1, 1] = -1
    assert gradcheck(lambda x: ops.permute(x, indices, num_out_tokens)[0], (float64(6, 3),))


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("num_out_tokens", [None, 5])
def test_unpermute_with_probs(top_k, num_out_tokens):
    indices = random_indices(6, top_k, 4)
    indices[1] = -1
    rows, row_id_map = ops.permute(float64(6, 3).detach(), indices, num_out_tokens)

    def function(rows, probs):
        return ops.unpermute(rows, row_id_map, probs)

    assert gradcheck(function, (float64(*rows.shape), float64(6, top_k)))


@pytest.mark.parametrize("top_k", [1, 3])
def test_unpermute_without_probs(top_k):
    rows, row_id_map = ops.permute(float64(6, 3).detach(), random_indices(6, top_k, 4))
    assert gradcheck(lambda rows: ops.unpermute(rows, row_id_map), (float64(*rows.shape),))


def test_moe_permute_and_moe_unpermute():
    indices = random_indices(6, 2, 4)
    indices[1, 1], indices[3] = -1, 9
    row_id_map = grouped_gemm.moe_permute(float64(6, 3), indices, num_experts=4).row_id_map
    assert gradcheck(
        lambda x: grouped_gemm.moe_permute(x, indices, num_experts=4).permuted, (float64(6, 3),)
    )
    assert gradcheck(
        lambda rows, probs: grouped_gemm.moe_unpermute(rows, row_id_map, probs),
        (float64(12, 3), float64(6, 2)),
    )
    assert gradcheck(lambda rows: grouped_gemm.moe_unpermute(rows, row_id_map), (float64(12, 3),))


@pytest.mark.parametrize("num_sequences", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_moe_route_and_its_losses(variant, num_sequences):
    options = keywords(variant, 8, "cpu")

    def function(logits):
        routed = grouped_gemm.moe_route(
            logits, 3, num_sequences=num_sequences, return_sums=True, **options
        )
        losses = grouped_gemm.router_load_balancing_loss(routed), grouped_gemm.router_z_loss(routed)
        return routed.probs, routed.score_sums, routed.z_sums, *losses

    assert gradcheck(function, (float64(6, 8),))


@pytest.mark.parametrize(
    "options",
    [{}, {"align_size": 4}, {"capacity": 2, "drop_policy": "probs", "align_size": 4}],
    ids=str,
)
def test_moe_permute_with_probs(options):
    indices = random_indices(6, 2, 4)
    indices[1, 1], indices[3] = -1, 9

    def function(x, probs):
        result = grouped_gemm.moe_permute(x, indices, num_experts=4, probs=probs, **options)
        return result.permuted, result.permuted_probs

    assert gradcheck(function, (float64(6, 3), float64(6, 2)))


def test_moe_unpermute_with_a_residual():
    indices = random_indices(6, 2, 4)
    indices[3] = 9
    row_id_map = grouped_gemm.moe_permute(float64(6, 3), indices, num_experts=4).row_id_map

    def function(rows, probs, residual):
        return grouped_gemm.moe_unpermute(rows, row_id_map, probs, residual=residual)

    assert gradcheck(function, (float64(12, 3), float64(6, 2), float64(6, 3)))
