"""moe_route: choice, weights, counts and sums against float64 formulas."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import moe_route, router_load_balancing_loss, router_z_loss
from support import routing
from support.buffers import LAYOUTS
from support.compare import assert_all_zero, assert_close_elementwise, assert_same_bits
from support.routing import DTYPES, VARIANTS, assert_is_the_formula, keywords, logits_of

# (T, E, topk): every number of registers and lanes, sizes between, the limits.
SHAPES = [(1, 4, 1), (7, 8, 2), (65, 8, 8), (33, 12, 5), (50, 32, 32), (130, 64, 8), (3, 100, 2),
          (300, 128, 8), (40, 256, 8), (12, 384, 6), (9, 1000, 1), (9, 1024, 32)]  # fmt: skip


@pytest.mark.small
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_choice_weights_and_counts_are_the_formulas(device, variant, shape):
    tokens, experts, topk = shape
    if "num_groups" in VARIANTS[variant] and topk > experts // 2:
        topk = experts // 2
    logits = logits_of(tokens, experts, device)
    options = keywords(variant, experts, device)
    assert_is_the_formula(moe_route(logits, topk, **options), logits, topk, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["softmax", "pre_softmax", "sigmoid_normalized"])
def test_low_precision_logits_tie_and_give_float32_weights(device, variant, dtype):
    logits = logits_of(200, 128, device, dtype)
    routed = moe_route(logits, 8, **VARIANTS[variant])
    assert routed.probs.dtype == torch.float32
    assert_is_the_formula(routed, logits, 8, **VARIANTS[variant])


@pytest.mark.parametrize("score_function", ["softmax", "sigmoid"])
@pytest.mark.parametrize("num_sequences", [1, 3, 30])
def test_sums_and_counts_of_each_sequence(device, score_function, num_sequences):
    logits = logits_of(90, 20, device)
    routed = moe_route(
        logits, 3, score_function=score_function, num_sequences=num_sequences, return_sums=True
    )
    score_sums, z_sums = routing.sums(logits, score_function, num_sequences)
    assert_close_elementwise(routed.score_sums, score_sums, 1e-5 * score_sums)
    assert_close_elementwise(routed.z_sums, z_sums, 1e-5 * z_sums)
    ids = routed.indices.cpu().long().view(num_sequences, -1)
    counts = torch.stack([torch.bincount(row, minlength=20) for row in ids])
    assert routed.tokens_per_sequence.tolist() == counts.tolist()
    assert routed.tokens_per_expert.tolist() == counts.sum(0).tolist()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("experts", [8, 32, 128, 512])
def test_ties_go_to_the_lowest_index(device, variant, experts):
    options = dict(VARIANTS[variant])
    options.pop("expert_bias", None)
    for logits in (torch.zeros(9, experts), torch.tensor([0.0, -0.0]).repeat(9, experts // 2)):
        routed = moe_route(logits.to(device), 4, **options)
        assert routed.indices.tolist() == [[0, 1, 2, 3]] * 9
    logits = torch.randint(0, 5, (50, experts)).float().to(device)  # many ties
    assert_is_the_formula(moe_route(logits, 4, **options), logits, 4, **options)


@pytest.mark.parametrize("variant", ["softmax", "pre_softmax", "sigmoid", "sigmoid_normalized"])
def test_scores_that_round_to_one_value_are_told_apart_by_their_logits(device, variant):
    logits = torch.tensor([[200.0, 300.0, 100.0, 250.0], [-200.0, -300.0, -100.0, -250.0]])
    routed = moe_route(logits.to(device), 2, **VARIANTS[variant])
    assert routed.indices.tolist() == [[1, 3], [2, 0]]


@pytest.mark.parametrize("num_sequences", [1, 3])
def test_without_tokens_everything_is_empty_or_zero_with_gradients_attached(device, num_sequences):
    logits = torch.empty(0, 8, device=device, requires_grad=True)
    routed = moe_route(logits, 2, num_sequences=num_sequences, return_sums=True)
    assert routed.probs.shape == routed.indices.shape == (0, 2)
    assert routed.tokens_per_expert.tolist() == [0] * 8
    assert_all_zero(routed.score_sums), assert_all_zero(routed.z_sums)
    loss = router_load_balancing_loss(routed) + router_z_loss(routed) + routed.probs.sum()
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_may_be_unaligned_or_not_contiguous(device, layout):
    logits = logits_of(66, 9, device)
    for actual, expected in zip(
        moe_route(LAYOUTS[layout](logits), 2, return_sums=True)[:6],
        moe_route(logits, 2, return_sums=True)[:6],
        strict=True,
    ):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("experts", [8, 128])
def test_the_same_call_gives_the_same_bits(device, experts):
    logits = logits_of(20000, experts, device).requires_grad_()

    def call():
        routed = moe_route(logits, 4, score_function="sigmoid", return_sums=True)
        losses = router_load_balancing_loss(routed) + router_z_loss(routed) + routed.probs.sum()
        return *routed[:6], *torch.autograd.grad(losses, logits)

    first = call()
    for _ in range(3):
        for actual, expected in zip(call(), first, strict=True):
            assert_same_bits(actual, expected)


def test_its_indices_are_what_moe_permute_takes(device):
    logits = logits_of(50, 8, device)
    routed = moe_route(logits, 2)
    permuted = grouped_gemm.moe_permute(logits, routed.indices, num_experts=8)
    assert_same_bits(permuted.tokens_per_expert, routed.tokens_per_expert)
