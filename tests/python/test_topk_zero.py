"""topK = 0 with tokens: nothing moves, results and gradients are zeros of the right shapes."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import backend, ops
from support.compare import assert_all_zero

T, H = 5, 8


def tokens(device):
    return torch.randn(T, H, device=device, requires_grad=True)


def no_ids(device):
    return torch.empty(T, 0, dtype=torch.int64, device=device)


def no_probs(device):
    return torch.empty(T, 0, device=device, requires_grad=True)


def assert_zero_gradient(y, x):
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.shape == x.shape
    assert_all_zero(grad, "the gradient of a row that went nowhere")


@pytest.mark.parametrize("num_out_tokens", [0, 3])
def test_permute_moves_nothing(device, num_out_tokens):
    x = tokens(device)
    permuted, row_id_map = ops.permute(x, no_ids(device), num_out_tokens)
    assert permuted.shape == (num_out_tokens, H) and row_id_map.shape == (0,)
    assert_all_zero(permuted, "rows without a slot")
    assert_zero_gradient(permuted, x)


def test_unpermute_gives_zeros_for_each_token_that_probs_name(device):
    rows, probs = torch.randn(3, H, device=device, requires_grad=True), no_probs(device)
    row_id_map = torch.empty(0, dtype=torch.int32, device=device)
    y = ops.unpermute(rows, row_id_map, probs)
    assert y.shape == (T, H)
    assert_all_zero(y, "tokens without a slot")
    assert_zero_gradient(y, rows)
    act_grad, prob_grad = backend.unpermute_bwd(y.detach(), rows.detach(), row_id_map, probs)
    assert act_grad.shape == rows.shape and prob_grad.shape == probs.shape
    assert_all_zero(act_grad, "rows that no token has")


def by_ids(x, probs):
    return grouped_gemm.moe_permute(x, no_ids(x.device), num_experts=4, probs=probs)


def by_routing_map(x, probs):
    chosen = torch.ones(T, 4, dtype=torch.bool, device=x.device)
    probs = x.new_ones(T, 4).requires_grad_()
    return grouped_gemm.moe_permute(x, chosen, topk=0, probs=probs)


@pytest.mark.parametrize("route", [by_ids, by_routing_map])
def test_the_native_functions_go_there_and_back(device, route):
    x, probs, residual = tokens(device), no_probs(device), torch.randn(T, H, device=device)
    routed = route(x, probs)
    assert routed.permuted.shape == (0, H) and routed.row_id_map.shape == (0, T)
    assert_all_zero(routed.tokens_per_expert, "counts of nothing")
    assert_zero_gradient(routed.permuted, x)
    y = grouped_gemm.moe_unpermute(routed.permuted, routed.row_id_map, residual=residual)
    assert torch.equal(y, residual)


def test_prob_gradients_have_the_shape_of_probs(device):
    x, probs = tokens(device), no_probs(device)
    (grad,) = torch.autograd.grad(by_ids(x, probs).permuted_probs.sum(), probs)
    assert grad.shape == (T, 0)


def test_fakes_agree(device):
    row_id_map = torch.empty(0, dtype=torch.int32, device=device)
    rows, probs = torch.randn(3, H, device=device), no_probs(device).detach()
    grad = torch.randn(T, H, device=device)
    raw = torch.ops.grouped_gemm
    check = torch.library.opcheck
    for whole_map in (row_id_map, row_id_map.view(0, T)):
        check(raw._unpermute.default, (rows, whole_map, probs, 0))
        check(raw._unpermute_bwd.default, (grad, rows, whole_map, probs, 0, 3, True))
    check(raw._unpermute.default, (rows, row_id_map.view(0, T), None, 0))
