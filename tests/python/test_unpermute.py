"""unpermute: each token's rows weighted, summed in float32 in k order and rounded once."""

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
    HIDDEN_SIZES,
    PERMUTE_DTYPES,
    TOP_KS,
    random_activations,
    random_indices,
)

TOKENS = 21
PROB_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPSILON32 = torch.finfo(torch.float32).eps


def routed(top_k, device, hidden=24, dtype=torch.float32, drops=False, num_out_tokens=None):
    """(rows [R, h], map, probs [T, topK] with values that bf16 holds)"""
    indices = random_indices(TOKENS, top_k, 6)
    if drops:
        indices[torch.rand(indices.shape) < 0.3] = -1
        indices[3] = -1
    mapping, source = reference.row_map(indices, num_out_tokens)
    x = torch.randn(len(source), hidden).to(dtype).to(device)
    probs = torch.rand(TOKENS, top_k).bfloat16().float().to(device)
    return x, torch.tensor(mapping, dtype=torch.int32, device=device), probs


@pytest.mark.small
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("top_k", TOP_KS)
def test_weighted_rows_are_summed_for_any_top_k(device, top_k, dtype):
    x, row_id_map, probs = routed(top_k, device, dtype=dtype, drops=top_k % 2 == 1)
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    assert y.dtype == dtype and y.shape == (TOKENS, 24)
    expected = reference.unpermute(x, row_id_map, TOKENS, top_k, probs)
    magnitude = reference.unpermute(x.abs(), row_id_map, TOKENS, top_k, probs)
    bound = rounding_bound(dtype, expected) + top_k * EPSILON32 * magnitude
    assert_close_elementwise(y, expected, bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("top_k", [2, 9, 16])
def test_sums_are_float32_in_k_order_with_one_rounding(device, top_k, dtype):
    """Products of two half-precision values are exact in float32, so the bits are decided."""
    x, row_id_map, probs = routed(top_k, device, dtype=dtype)
    probs = (probs * 1024).round() / 1024
    if dtype == torch.float16:
        probs, x = probs.clamp(min=2**-6), (x * 64).round() / 64
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    expected = reference.unpermute(x, row_id_map, TOKENS, top_k, probs, dtype=torch.float32)
    assert_same_bits(y, expected.to(dtype))


@pytest.mark.small
@pytest.mark.parametrize("hidden", HIDDEN_SIZES + [7168])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_rows_of_any_width(device, hidden, dtype):
    x, row_id_map, probs = routed(2, device, hidden, dtype)
    y = grouped_gemm.unpermute(fenced(x), row_id_map, probs)
    expected = reference.unpermute(x, row_id_map, TOKENS, 2, probs)
    magnitude = reference.unpermute(x.abs(), row_id_map, TOKENS, 2, probs)
    bound = rounding_bound(dtype, expected) + 2 * EPSILON32 * magnitude
    assert_close_elementwise(y, expected, bound)


@pytest.mark.small
@pytest.mark.parametrize("prob_dtype", PROB_DTYPES, ids=str)
@pytest.mark.parametrize("map_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_probs_of_any_float_and_maps_of_any_integer(device, dtype, map_dtype, prob_dtype):
    x, row_id_map, probs = routed(3, device, dtype=dtype, drops=True)
    x.requires_grad_()
    probs = probs.to(prob_dtype).requires_grad_()
    y = grouped_gemm.unpermute(x, row_id_map.to(map_dtype), probs)
    expected = reference.unpermute(x, row_id_map, TOKENS, 3, probs)
    magnitude = reference.unpermute(x.abs(), row_id_map, TOKENS, 3, probs)
    assert_close_elementwise(y, expected, rounding_bound(dtype, expected) + 3e-7 * magnitude)
    grad = torch.randn(y.shape).to(dtype).to(device)
    y.backward(grad)
    assert x.grad.dtype == dtype and probs.grad.dtype == prob_dtype
    act_grad, prob_grad = reference.unpermute_grads(grad, x, row_id_map, TOKENS, 3, probs)
    assert_close_elementwise(x.grad, act_grad, rounding_bound(dtype, act_grad))
    _, magnitude = reference.unpermute_grads(grad.abs(), x.abs(), row_id_map, TOKENS, 3)
    bound = rounding_bound(prob_dtype, prob_grad) + 5 * 4 * EPSILON32 * magnitude
    assert_close_elementwise(probs.grad, prob_grad, bound)


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 8, 9, 17])
@pytest.mark.parametrize("hidden", [8, 40, 512, 1280, 2880, 7168])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_gradients_of_rows_of_any_length_and_top_k(device, dtype, hidden, top_k):
    x, row_id_map, probs = routed(top_k, device, hidden, dtype, drops=True)
    x = fenced(x).requires_grad_()
    probs.requires_grad_()
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    grad = torch.randn(y.shape).to(dtype).to(device)
    y.backward(fenced(grad))
    act_grad, prob_grad = reference.unpermute_grads(grad, x, row_id_map, TOKENS, top_k, probs)
    assert_close_elementwise(x.grad, act_grad, rounding_bound(dtype, act_grad))
    _, magnitude = reference.unpermute_grads(grad.abs(), x.abs(), row_id_map, TOKENS, top_k)
    bound = rounding_bound(torch.float32, prob_grad) + hidden * EPSILON32 * magnitude
    assert_close_elementwise(probs.grad, prob_grad, bound)


@pytest.mark.parametrize(
    "tokens, top_k, hidden", [(4096, 4, 1032), (32768, 3, 176), (4096, 4, 1033)]
)
def test_gradients_without_probs_are_copies_however_many_there_are(device, tokens, top_k, hidden):
    """More than 32 MiB of them take other kernels on CUDA."""
    indices = random_indices(tokens, top_k, 16, device)
    indices[torch.rand(indices.shape, device=device) < 0.1] = -1
    x = torch.randn(tokens, hidden, device=device).bfloat16()
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    permuted = torch.cat([permuted, permuted[:100]]).detach().requires_grad_()  # no slot's rows
    y = grouped_gemm.moe_unpermute(permuted, row_id_map.view(top_k, tokens))
    grad = torch.randn(y.shape, device=device).bfloat16()
    y.backward(grad)
    expected = torch.zeros_like(permuted)
    rows = row_id_map.view(top_k, tokens).long()
    for k in range(top_k):
        kept = rows[k] >= 0
        expected[rows[k][kept]] = grad[kept]
    assert_same_bits(permuted.grad, expected)


@pytest.mark.parametrize("wants", [(True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("top_k", [1, 4])
def test_only_the_gradients_asked_for_are_given(device, top_k, wants):
    x, row_id_map, probs = routed(top_k, device, drops=True)
    x.requires_grad_(wants[0]), probs.requires_grad_(wants[1])
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    grad = torch.randn(y.shape).to(device)
    y.backward(grad)
    assert (x.grad is not None, probs.grad is not None) == wants
    act_grad, prob_grad = reference.unpermute_grads(grad, x, row_id_map, TOKENS, top_k, probs)
    if wants[0]:
        assert_close_elementwise(x.grad, act_grad, rounding_bound(torch.float32, act_grad))
    if wants[1]:
        _, magnitude = reference.unpermute_grads(grad.abs(), x.abs(), row_id_map, TOKENS, top_k)
        bound = rounding_bound(torch.float32, prob_grad) + 20 * EPSILON32 * magnitude
        assert_close_elementwise(probs.grad, prob_grad, bound)


@pytest.mark.small
@pytest.mark.parametrize("num_out_tokens", [1, 17, 42, 50])
def test_rows_that_no_slot_names_get_zero_gradients(device, num_out_tokens):
    x, row_id_map, probs = routed(2, device, drops=True, num_out_tokens=num_out_tokens)
    x.requires_grad_(), probs.requires_grad_()
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    grad = torch.randn(y.shape).to(device)
    y.backward(grad)
    act_grad, _ = reference.unpermute_grads(grad, x, row_id_map, TOKENS, 2, probs)
    assert_close_elementwise(x.grad, act_grad, rounding_bound(torch.float32, act_grad))
    dropped = row_id_map.reshape(2, TOKENS).T < 0
    assert_all_zero(probs.grad[dropped], "prob gradient of dropped slots")
    assert_all_zero(y[3], "a token whose every slot was dropped")


@pytest.mark.small
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_a_dropped_slot_contributes_zero_whatever_its_prob_is(device, dtype, value):
    x, row_id_map, probs = routed(3, device, dtype=dtype, drops=True)
    dropped = row_id_map.reshape(3, TOKENS).T < 0
    assert dropped.any()
    clean = probs.clone()
    clean[dropped] = 0
    probs[dropped] = value
    x.requires_grad_(), probs.requires_grad_()
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    assert_same_bits(y, grouped_gemm.unpermute(x, row_id_map, clean))
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert_all_zero(probs.grad[dropped], "prob gradient of dropped slots")


@pytest.mark.small
@pytest.mark.parametrize("bad", [42, 10**6, 2**31 - 1, -2, -(2**31)])
def test_a_map_entry_outside_the_rows_is_dropped_or_an_error_naming_the_map(device, bad):
    x, row_id_map, probs = routed(2, device)
    x, probs = fenced(x).requires_grad_(), probs.requires_grad_()
    row_id_map[5] = bad
    try:
        y = grouped_gemm.unpermute(x, row_id_map, probs)
        y.sum().backward()
    except (ValueError, RuntimeError, IndexError) as error:
        assert "row_id_map" in str(error)
        return
    expected = reference.unpermute(x, row_id_map, TOKENS, 2, probs)
    assert_close_elementwise(y, expected, 1e-5)
    act_grad, prob_grad = reference.unpermute_grads(
        torch.ones(TOKENS, 24), x, row_id_map, TOKENS, 2, probs
    )
    assert_close_elementwise(x.grad, act_grad, rounding_bound(torch.float32, act_grad))
    assert_close_elementwise(probs.grad, prob_grad, 1e-4)


def test_an_int64_map_entry_beyond_32_bits_does_not_wrap_into_the_rows(device):
    x, row_id_map, probs = routed(2, device)
    row_id_map = row_id_map.long()
    row_id_map[5] = 2**32 + 1
    try:
        y = grouped_gemm.unpermute(x, row_id_map, probs)
    except (ValueError, RuntimeError, IndexError) as error:
        assert "row_id_map" in str(error)
        return
    assert_close_elementwise(y, reference.unpermute(x, row_id_map, TOKENS, 2, probs), 1e-5)


@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
def test_without_probs_and_one_slot_per_token_rows_go_home_unweighted(device, dtype):
    x = random_activations(TOKENS, 7, dtype, device)
    indices = random_indices(TOKENS, 1, 5, device)
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    assert_same_bits(grouped_gemm.unpermute(permuted, row_id_map), x)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_results_are_float32_sums_rounded_once(device, dtype):
    x, row_id_map, probs = routed(4, device, dtype=dtype)
    probs = (probs * 64).round() / 64
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    assert y.dtype == dtype
    sums = reference.unpermute(x, row_id_map, TOKENS, 4, probs, dtype=torch.float32)
    assert_same_bits(y, sums.to(dtype))


@pytest.mark.small
@pytest.mark.parametrize("sign", [1, -1])
def test_float8_e4m3_saturates_and_e5m2_overflows_to_infinity(device, sign):
    row_id_map = torch.tensor([0, 1], dtype=torch.int32, device=device)
    probs = torch.ones(1, 2, device=device)
    e4m3 = torch.full((2, 5), 448.0 * sign, device=device).to(torch.float8_e4m3fn)
    y = grouped_gemm.unpermute(e4m3, row_id_map, probs).float()
    assert (y == 448.0 * sign).all()
    e5m2 = torch.full((2, 5), 57344.0 * sign, device=device).to(torch.float8_e5m2)
    y = grouped_gemm.unpermute(e5m2, row_id_map, probs).float()
    assert (y == float("inf") * sign).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_rounds_alike_just_below_and_above_its_largest_value(device, dtype):
    largest = torch.finfo(dtype).max
    x = torch.full((2, 1), largest, device=device).to(dtype)
    row_id_map = torch.tensor([0, 1], dtype=torch.int32, device=device)
    for extra in (1 / 64, 1 / 16, 3 / 32):  # e5m2: at 1/8 of the last step it is still rounded down
        probs = torch.tensor([[1.0, extra]], device=device)
        y = grouped_gemm.unpermute(x, row_id_map, probs).float().item()
        value = largest * (1 + extra)
        if dtype == torch.float8_e4m3fn:
            assert y == largest
        else:  # half a step above the largest value is 61440; from there on it is Inf
            assert y == (float("inf") if value >= 61440 else largest)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_nan_stays_nan(device, dtype):
    x = torch.full((1, 3), float("nan"), device=device).to(dtype)
    y = grouped_gemm.unpermute(
        x, torch.zeros(1, dtype=torch.int32, device=device), torch.ones(1, 1, device=device)
    )
    assert y.float().isnan().all()


@pytest.mark.small
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_and_gradients_may_have_any_layout(device, dtype, layout):
    x, row_id_map, probs = routed(2, device, dtype=dtype)
    arranged = LAYOUTS[layout](x).detach().requires_grad_()
    strided_probs = LAYOUTS[layout](probs).detach().requires_grad_()
    strided_map = torch.stack([row_id_map, row_id_map], dim=1)[:, 0]
    y = grouped_gemm.unpermute(arranged, strided_map, strided_probs)
    dense = grouped_gemm.unpermute(x, row_id_map, probs)
    assert_same_bits(y, dense)
    grad = torch.randn(y.shape).to(dtype).to(device)
    y.backward(LAYOUTS[layout](grad))
    act_grad, prob_grad = reference.unpermute_grads(grad, x, row_id_map, TOKENS, 2, probs)
    assert_close_elementwise(arranged.grad, act_grad, rounding_bound(dtype, act_grad))
    _, magnitude = reference.unpermute_grads(grad.abs(), x.abs(), row_id_map, TOKENS, 2)
    assert_close_elementwise(strided_probs.grad, prob_grad, 20 * EPSILON32 * magnitude)


@pytest.mark.parametrize("with_probs", [False, True])
def test_without_tokens_the_result_is_empty_and_attached(device, with_probs):
    x = torch.empty(0, 16, device=device, requires_grad=True)
    probs = torch.empty(0, 2, device=device, requires_grad=True) if with_probs else None
    row_id_map = torch.empty(0, dtype=torch.int32, device=device)
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    assert y.shape == (0, 16) and y.requires_grad and y is not x
    y.sum().backward()
    assert x.grad.shape == (0, 16)
    if with_probs:
        assert probs.grad.shape == (0, 2)


@pytest.mark.small
def test_without_rows_every_token_is_zero_and_gradients_have_their_shapes(device):
    """All slots dropped by capacity: rows [0, h], yet T tokens come back."""
    x = torch.empty(0, 16, device=device, requires_grad=True)
    probs = torch.rand(5, 2, device=device, requires_grad=True)
    row_id_map = torch.full((10,), -1, dtype=torch.int32, device=device)
    y = grouped_gemm.unpermute(x, row_id_map, probs)
    assert y.shape == (5, 16)
    assert_all_zero(y)
    y.sum().backward()
    assert x.grad.shape == (0, 16)
    assert_all_zero(probs.grad)


def test_the_same_call_gives_the_same_bits(device):
    x, row_id_map, probs = routed(8, device, dtype=torch.bfloat16)
    x.requires_grad_(), probs.requires_grad_()
    runs = []
    for _ in range(3):
        y = grouped_gemm.unpermute(x, row_id_map, probs)
        runs.append((y, *torch.autograd.grad(y.float().square().sum(), (x, probs))))
    for run in runs[1:]:
        for actual, expected in zip(run, runs[0], strict=True):
            assert_same_bits(actual, expected)
