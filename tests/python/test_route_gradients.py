"""moe_route's gradients and the losses over its sums, against float64 formulas."""

import pytest
import torch
from grouped_gemm import moe_route, router_load_balancing_loss, router_z_loss
from support import routing
from support.compare import assert_all_zero, assert_close_elementwise, assert_same_bits
from support.routing import DTYPES, VARIANTS, keywords, logits_of


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(37, 8, 2), (24, 64, 3), (20, 128, 8), (10, 1024, 32)], ids=str)
def test_every_gradient_is_the_formulas(device, variant, shape):
    tokens, experts, topk = shape
    logits = logits_of(tokens, experts, device).requires_grad_()
    options = keywords(variant, experts, device)
    score_function = options.get("score_function", "softmax")
    routed = moe_route(logits, topk, return_sums=True, **options)
    wide = logits.detach().cpu().double().requires_grad_()
    expected = (
        routing.weights(wide, routed.indices.cpu().long(), **options),
        *routing.sums(wide, score_function, 1),
    )
    actual = (routed.probs, routed.score_sums, routed.z_sums)
    seeds = [torch.randn(e.shape) for e in expected]
    for wanted in ([0], [1], [2], [0, 1, 2]):  # each by itself, and together
        (grad,) = torch.autograd.grad(
            [actual[i] for i in wanted], logits, [seeds[i].to(device) for i in wanted],
            retain_graph=True,
        )  # fmt: skip
        (reference,) = torch.autograd.grad(
            [expected[i] for i in wanted], wide, [seeds[i].double() for i in wanted],
            retain_graph=True,
        )  # fmt: skip
        bound = 1e-5 * reference.abs() + 1e-6 * reference.abs().max()
        assert_close_elementwise(grad, reference, bound, f"gradient of {wanted}")


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_gradients_have_the_logits_dtype(device, dtype):
    logits = logits_of(40, 16, device, dtype).requires_grad_()
    routed = moe_route(logits, 2)
    seed = torch.randn(40, 2)
    routed.probs.backward(seed.to(device))
    wide = logits.detach().cpu().double().requires_grad_()
    (reference,) = torch.autograd.grad(
        routing.weights(wide, routed.indices.cpu().long()), wide, seed.double()
    )
    assert logits.grad.dtype == dtype
    assert_close_elementwise(
        logits.grad, reference, torch.finfo(dtype).eps * reference.abs() + 1e-6
    )


@pytest.mark.parametrize("num_sequences", [1, 4])
@pytest.mark.parametrize("score_function", ["softmax", "sigmoid"])
def test_losses_and_their_gradients_are_the_papers(device, score_function, num_sequences):
    logits = logits_of(60, 12, device).requires_grad_()
    routed = moe_route(
        logits, 2, score_function=score_function, num_sequences=num_sequences, return_sums=True
    )
    balance, z = router_load_balancing_loss(routed), router_z_loss(routed)
    wide = logits.detach().cpu().double().requires_grad_()
    scores = routing.scores_of(wide, score_function)
    mean = (scores / scores.sum(-1, keepdim=True)).view(num_sequences, -1, 12).mean(1)
    share = routed.tokens_per_sequence.cpu().double() / (2 * 60 / num_sequences)
    expected = (12 * (share * mean).sum(1).mean(), wide.logsumexp(-1).square().mean())
    for actual, reference in zip((balance, z), expected, strict=True):
        assert actual.shape == () and actual.item() == pytest.approx(reference.item(), rel=1e-5)
        (grad,) = torch.autograd.grad(actual, logits, retain_graph=True)
        (wanted,) = torch.autograd.grad(reference, wide, retain_graph=True)
        assert_close_elementwise(grad, wanted, 1e-5 * wanted.abs() + 1e-8)


def test_a_balanced_router_has_a_loss_of_one_and_one_that_takes_all_of_e(device):
    balanced = moe_route(10 * torch.eye(4, device=device), 1, return_sums=True)
    assert router_load_balancing_loss(balanced).item() == pytest.approx(1)
    collapsed = moe_route(100 * torch.eye(4, device=device)[[0] * 6], 1, return_sums=True)
    assert router_load_balancing_loss(collapsed).item() == pytest.approx(4)


def test_a_loss_without_sums_says_how_to_get_them(device):
    routed = moe_route(torch.zeros(4, 8, device=device), 2)
    for loss in (router_load_balancing_loss, router_z_loss):
        with pytest.raises(ValueError, match=f"{loss.__name__}: routed got .*return_sums=True"):
            loss(routed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", ["softmax", "pre_softmax", "sigmoid_normalized"])
@pytest.mark.parametrize("shape", [(75, 5, 1), (75, 9, 3), (41, 129, 8), (9, 1023, 32)], ids=str)
def test_rows_of_any_length_get_the_gradient_of_weights_alone(device, shape, variant, dtype):
    tokens, experts, topk = shape
    logits = logits_of(tokens, experts, device, dtype).requires_grad_()
    routed = moe_route(logits, topk, **VARIANTS[variant])
    seed = torch.randn(topk, tokens).T  # not contiguous
    (grad,) = torch.autograd.grad(routed.probs, logits, seed.to(device))
    wide = logits.detach().cpu().double().requires_grad_()
    weights = routing.weights(wide, routed.indices.cpu().long(), **VARIANTS[variant])
    (reference,) = torch.autograd.grad(weights, wide, seed.double())
    rounding = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_close_elementwise(
        grad, reference, rounding * reference.abs() + 1e-6 * (1 + reference.abs().max())
    )


@pytest.mark.parametrize("variant", ["softmax", "pre_softmax", "sigmoid", "sigmoid_normalized"])
def test_a_masked_expert_gets_no_gradient_and_nan_stays_in_its_row(device, variant):
    logits = logits_of(40, 16, device)
    logits[:, 1::2] = -torch.inf
    logits[5] = -torch.inf
    grads = []
    for bad in (0.0, torch.nan):
        logits[7, 4] = bad
        x = logits.clone().requires_grad_()
        moe_route(x, 10, **VARIANTS[variant]).probs[:, ::3].sum().backward()
        grads.append(x.grad)
    others = [t for t in range(40) if t != 7]
    assert grads[0].isfinite().all()
    assert_all_zero(grads[0][:, 1::2]), assert_all_zero(grads[0][5])
    assert_same_bits(grads[1][others], grads[0][others])
    assert not grads[1][7, 4].isfinite()


def test_autograd_refuses_weights_that_were_changed_in_place(device):
    logits = logits_of(6, 8, device).requires_grad_()
    probs = moe_route(logits, 2).probs
    (probs / 2).sum().backward()
    probs = moe_route(logits, 2).probs
    probs /= 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        probs.sum().backward()
