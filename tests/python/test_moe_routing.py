"""`grouped_gemm.nn.MoE`: every option of its router, and balancing by bias instead of a loss."""

import pytest
import torch
from grouped_gemm import reference
from grouped_gemm.nn import MoE
from support.routing import VARIANTS

H, FFN, E, TOP_K, T = 24, 40, 8, 2, 36


def make_moe(device, **options):
    return MoE(H, FFN, E, TOP_K, **options).to(device)


def tokens(device, *shape):
    return torch.randn(*(shape or (T, H))).to(device)


def logits_of(moe, x):
    return x.double() @ moe.gate.weight.detach().double().T


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_router_passes_every_option_on(device, variant):
    moe = make_moe(device, **{"use_pre_softmax": False} | VARIANTS[variant])
    bias = None
    if moe.gate.expert_bias:
        bias = 0.1 * torch.randn(E).to(device)
        moe.gate.e_score_correction_bias.copy_(bias)
    x = tokens(device)
    routing = moe.gate(x)
    expected = reference.moe_route(
        logits_of(moe, x), TOP_K, **VARIANTS[variant] | {"expert_bias": bias}
    )
    assert torch.equal(routing.indices.long(), expected.indices)
    torch.testing.assert_close(routing.probs.double(), expected.probs, rtol=1e-4, atol=1e-6)
    _, stats = moe(x, return_stats=True)
    assert stats.tokens_per_expert.tolist() == expected.tokens_per_expert.tolist()


@pytest.mark.parametrize("per_sequence", [False, True])
def test_auxiliary_losses_add_up_and_may_be_taken_by_sequence(device, per_sequence):
    moe = make_moe(device, aux_loss_coef=0.5, z_loss_coef=0.25, aux_loss_per_sequence=per_sequence)
    x = tokens(device, 3, 12, H)
    _, stats = moe(x, return_stats=True)
    balance = []
    for part in x if per_sequence else [x.view(-1, H)]:
        logits = logits_of(moe, part)
        counts = reference.moe_route(logits, TOP_K, use_pre_softmax=True).tokens_per_expert
        share = counts.double() / counts.sum()
        balance.append(E * (share * logits.softmax(-1).mean(0)).sum())
    z = logits_of(moe, x.view(-1, H)).logsumexp(-1).square().mean()
    expected = 0.5 * torch.stack(balance).mean() + 0.25 * z
    assert stats.aux_loss.item() == pytest.approx(expected.item(), rel=1e-4)
    stats.aux_loss.backward()
    assert moe.gate.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(H,), (0, H), (2, 0, H), (0, 3, H)], ids=str)
def test_losses_by_sequence_take_any_leading_dimensions(device, shape):
    moe = make_moe(device, aux_loss_coef=0.5, aux_loss_per_sequence=True)
    y, stats = moe(tokens(device, *shape), return_stats=True)
    assert y.shape == shape and stats.aux_loss.isfinite()


def test_a_z_loss_cannot_be_lost_by_oversight(device):
    moe = make_moe(device, z_loss_coef=0.1)
    with pytest.raises(ValueError, match=r"return_stats got False; needs True .*z_loss_coef=0.1"):
        moe(tokens(device))


def test_updating_the_bias_balances_the_experts_without_a_loss(device):
    moe = make_moe(device, score_function="sigmoid", expert_bias=True, expert_bias_update_rate=0.01)
    x = tokens(device, 512, H) + 0.5
    loads = []
    for _ in range(150):
        _, stats = moe(x, return_stats=True)
        loads.append(stats.tokens_per_expert.max().item())
        moe.update_expert_bias()
    mean = 512 * TOP_K / E
    assert loads[-1] < 1.15 * mean < 1.3 * mean < loads[0]


def test_one_update_moves_each_bias_by_the_rate_towards_the_mean(device):
    moe = make_moe(device, expert_bias=True)
    counts = torch.zeros(E, dtype=torch.int64)
    for _ in range(3):
        counts += moe(tokens(device), return_stats=True)[1].tokens_per_expert.cpu()
    with torch.no_grad():
        moe(tokens(device))  # not a training pass
    moe.eval()(tokens(device))
    moe.update_expert_bias()
    expected = 1e-3 * (counts.double().mean() - counts).sign()
    assert moe.gate.e_score_correction_bias.tolist() == pytest.approx(expected.tolist())
    moe.update_expert_bias()  # nothing since: no change
    assert moe.gate.e_score_correction_bias.tolist() == pytest.approx(expected.tolist())


def test_the_bias_stays_float32_and_is_saved_and_nothing_else_is(device):
    plain, biased = make_moe(device), make_moe(device, expert_bias=True)
    assert set(biased.state_dict()) - set(plain.state_dict()) == {"gate.e_score_correction_bias"}
    biased.gate.e_score_correction_bias.add_(1 / 1024 + torch.arange(E, device=device))
    before = biased.gate.e_score_correction_bias.clone()
    for move in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.float()):
        move(biased)
        assert torch.equal(biased.gate.e_score_correction_bias, before)
    other = make_moe(device, expert_bias=True)
    other.load_state_dict(biased.state_dict())
    assert torch.equal(other.gate.e_score_correction_bias, before)


def test_a_layer_with_a_bias_can_be_made_on_the_meta_device(device):
    moe = MoE(H, FFN, E, TOP_K, expert_bias=True, device="meta").to_empty(device=device)
    moe.reset_parameters()
    assert moe.gate.e_score_correction_bias.tolist() == [0] * E
    moe(tokens(device))


def test_a_layer_with_a_bias_compiles_and_counts(device):
    moe = make_moe(device, score_function="sigmoid", normalize_topk=True, expert_bias=True)
    compiled = torch.compile(moe, fullgraph=True, backend="aot_eager")
    x = tokens(device)
    torch.testing.assert_close(compiled(x), moe(x))
    expected = 2 * moe.gate(x.requires_grad_(False)).tokens_per_expert
    counted = moe.gate.tokens_since_update - expected // 2  # the line above counted too
    assert counted.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_groups": 3, "group_topk": 1}, r"MoE: argument num_groups got 3; needs a divisor"),
        ({"num_groups": 4}, r"MoE: argument group_topk got None; needs 1 to num_groups=4"),
        ({"num_groups": 8, "group_topk": 1}, r"MoE: argument top_k got 2; needs at most 1"),
        ({"z_loss_coef": -1.0}, r"MoE: argument z_loss_coef got -1.0; needs 0 or more"),
    ],
)
def test_a_bad_constructor_argument_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        MoE(H, FFN, E, TOP_K, **change)


def test_an_update_without_a_bias_says_how_to_get_one(device):
    with pytest.raises(ValueError, match=r"expert_bias got False; needs True for update"):
        make_moe(device).update_expert_bias()
