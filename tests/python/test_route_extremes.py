"""moe_route with huge, masked and broken logits, and the switch that refuses the last."""

import pytest
import torch
from grouped_gemm import moe_route, router_load_balancing_loss, router_z_loss
from support.compare import assert_all_zero, assert_close_elementwise, assert_same_bits
from support.routing import VARIANTS, keywords, logits_of


@pytest.mark.parametrize("variant", VARIANTS)
def test_huge_logits_give_finite_weights_and_gradients(device, variant):
    options = keywords(variant, 16, device)
    signs = torch.randint(0, 2, (60, 16)) * 2 - 1
    for logits in (1e4 * signs, -1e4 * torch.ones(60, 16), 3e38 * signs, 1e4 + 0 * signs):
        logits = logits.float().to(device).requires_grad_()
        routed = moe_route(logits, 3, return_sums=True, **options)
        routed.probs.sum().backward()
        assert routed.probs.isfinite().all() and routed.score_sums.isfinite().all()
        assert logits.grad.isfinite().all()
        if options.get("normalize_topk") or options.get("score_function") != "sigmoid":
            total = options.get("scaling_factor", 1.0)
            if not options.get("use_pre_softmax") or options.get("normalize_topk"):
                assert_close_elementwise(
                    routed.probs.sum(-1), torch.full((60,), total, dtype=torch.float64), 1e-5
                )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_masked_expert_is_chosen_last_and_weighs_nothing(device, variant):
    options = keywords(variant, 16, device)
    logits = logits_of(40, 16, device)
    logits[:, 1::2] = -torch.inf  # eight are left, four in any two groups
    logits[5] = -torch.inf
    logits.requires_grad_()
    routed = moe_route(logits, 6 if "num_groups" in options else 10, return_sums=True, **options)
    finite = logits.detach().gather(1, routed.indices.long()).isfinite()
    order = finite.int().sort(dim=1, descending=True, stable=True).values
    assert torch.equal(order, finite.int()), "a masked expert came before one that is not"
    assert (finite.sum(1) == (4 if "num_groups" in options else 8))[torch.arange(40) != 5].all()
    assert_all_zero(routed.probs[~finite])
    sorted_ids = routed.indices.long().sort(dim=1).values
    assert (sorted_ids.diff(dim=1) > 0).all() and sorted_ids.min() >= 0 and sorted_ids.max() < 16
    loss = router_load_balancing_loss(routed) + router_z_loss(routed) + routed.probs.sum()
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert_all_zero(logits.grad[:, 1::2])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("experts", [8, 128])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_and_inf_never_give_an_id_out_of_range(device, variant, experts, bad):
    options = keywords(variant, experts, device)
    logits = logits_of(70, experts, device)
    clean = moe_route(logits, 4, **options)
    logits[3, 5], logits[10] = bad, bad
    logits[11, ::2] = -bad
    routed = moe_route(logits, 4, **options)
    ids = routed.indices.long().sort(dim=1).values
    assert (ids >= 0).all() and (ids < experts).all() and (ids.diff(dim=1) > 0).all()
    assert routed.tokens_per_expert.sum() == 280
    others = [t for t in range(70) if t not in (3, 10, 11)]
    assert_same_bits(routed.probs[others], clean.probs[others])
    assert_same_bits(routed.indices[others], clean.indices[others])


@pytest.mark.parametrize("num_sequences", [1, 4])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_checking_switch_refuses_nan_and_inf(device, monkeypatch, bad, num_sequences):
    logits = logits_of(40, 8, device)
    broken = logits.clone()
    broken[3, 2] = broken[3, 5] = broken[17, 0] = bad
    monkeypatch.setenv("GG_CHECK_ROUTING", "1")
    moe_route(logits, 2, num_sequences=num_sequences)
    masked = torch.where(logits < 0, -torch.inf, logits)
    moe_route(masked, 2, num_sequences=num_sequences)
    message = r"moe_route: logits got NaN or \+inf in 2 of 40 tokens; needs finite"
    with pytest.raises(RuntimeError, match=message):
        moe_route(broken, 2, num_sequences=num_sequences)
    monkeypatch.setenv("GG_CHECK_ROUTING", "0")
    moe_route(broken, 2, num_sequences=num_sequences)
