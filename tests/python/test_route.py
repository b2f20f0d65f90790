"""moe_route: choice, weights, counts and sums against float64 formulas, forward and backward."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import moe_route, router_load_balancing_loss, router_z_loss
from support import routing
from support.buffers import LAYOUTS
from support.compare import assert_all_zero, assert_close_elementwise, assert_same_bits
from support.routing import VARIANTS, keywords

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (T, E, topk): every number of registers and lanes, sizes between, the limits.
SHAPES = [(1, 4, 1), (7, 8, 2), (65, 8, 8), (33, 12, 5), (50, 32, 32), (130, 64, 8), (3, 100, 2),
          (300, 128, 8), (40, 256, 8), (12, 384, 6), (9, 1000, 1), (9, 1024, 32)]  # fmt: skip
NAP = 500_000_000  # cycles


def logits_of(tokens, experts, device, dtype=torch.float32, scale=2.0):
    return (scale * torch.randn(tokens, experts)).to(dtype).to(device)


def assert_is_the_formula(routed, logits, topk, **options):
    """Keys that differ by less than float32's rounding may come in either order."""
    x = logits.detach().cpu().double()
    indices, keys = routing.choose(x, topk, **options)
    actual = routed.indices.cpu().long()
    assert routed.indices.dtype == torch.int32 and actual.shape == indices.shape
    assert (actual.sort(dim=1).values.diff(dim=1) > 0).all(), "an expert was chosen twice"
    difference = (keys.gather(1, actual) - keys.gather(1, indices)).abs()
    assert ((difference == 0) | (difference < 3e-7)).all()
    assert (actual != indices)[difference == 0].sum() == 0, "a tie went to a higher index"
    probs = routing.weights(x, actual, **options)
    assert_close_elementwise(routed.probs, probs, 1e-5 * probs + 1e-30)
    counts = torch.bincount(actual.flatten(), minlength=logits.shape[1])
    assert routed.tokens_per_expert.dtype == torch.int32
    assert routed.tokens_per_expert.tolist() == counts.tolist()


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


@pytest.mark.parametrize("variant", ["softmax", "pre_softmax", "sigmoid", "sigmoid_normalized"])
def test_scores_that_round_to_one_value_are_told_apart_by_their_logits(device, variant):
    logits = torch.tensor([[200.0, 300.0, 100.0, 250.0], [-200.0, -300.0, -100.0, -250.0]])
    routed = moe_route(logits.to(device), 2, **VARIANTS[variant])
    assert routed.indices.tolist() == [[1, 3], [2, 0]]


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
        moe_route(LAYOUTS[layout](logits), 2, return_sums=True),
        moe_route(logits, 2, return_sums=True),
        strict=True,
    ):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("experts", [8, 128])
def test_the_same_call_gives_the_same_bits(device, experts):
    logits = logits_of(20000, experts, device).requires_grad_()

    def call():
        routed = moe_route(logits, 4, score_function="sigmoid", return_sums=True)
        losses = router_load_balancing_loss(routed) + router_z_loss(routed) + routed.probs.sum()
        return *routed, *torch.autograd.grad(losses, logits)

    first = call()
    for _ in range(3):
        for actual, expected in zip(call(), first, strict=True):
            assert_same_bits(actual, expected)


def test_its_indices_are_what_moe_permute_takes(device):
    logits = logits_of(50, 8, device)
    routed = moe_route(logits, 2)
    permuted = grouped_gemm.moe_permute(logits, routed.indices, num_experts=8)
    assert_same_bits(permuted.tokens_per_expert, routed.tokens_per_expert)


def test_autocast_changes_nothing(device):
    logits = logits_of(50, 8, device)
    expected = moe_route(logits, 2, return_sums=True)
    with torch.autocast(device.type, torch.bfloat16):
        for actual, wanted in zip(moe_route(logits, 2, return_sums=True), expected, strict=True):
            assert_same_bits(actual, wanted)


def test_it_compiles_in_one_graph_forward_and_backward(device):
    options = keywords("deepseek_v3", 16, device)

    def loss(logits):
        routed = moe_route(logits, 3, num_sequences=2, return_sums=True, **options)
        parts = routed.probs.square().sum() + router_load_balancing_loss(routed)
        return parts + router_z_loss(routed), routed.indices, routed.tokens_per_expert

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (30, 8, 52):
        logits = logits_of(tokens, 16, device).requires_grad_()
        results = []
        for function in (compiled, loss):
            value, indices, counts = function(logits)
            results.append([value, indices, counts, *torch.autograd.grad(value, logits)])
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


REFUSED = [
    ({"topk": 0}, r"moe_route: topk got 0; needs 1 to 32"),
    ({"topk": 9}, r"moe_route: topk got 9; needs 1 to 32, at most the 8 experts"),
    ({"score_function": "tanh"}, r"moe_route: score_function got 'tanh'; needs one of"),
    ({"num_groups": 3, "group_topk": 1}, r"num_groups got 3; needs 1 to 32, a divisor of the 8"),
    ({"num_groups": 2}, r"moe_route: group_topk got None beside num_groups; needs both"),
    ({"group_topk": 2}, r"moe_route: num_groups got None beside group_topk; needs both"),
    ({"num_groups": 2, "group_topk": 3}, r"group_topk got 3; needs 1 to num_groups, 2"),
    ({"topk": 3, "num_groups": 4, "group_topk": 1}, r"topk got 3; needs at most the 2 experts"),
    ({"num_groups": 2, "group_topk": 1, "group_score_topk": 0}, r"group_score_topk got 0; needs 1"),
    ({"scaling_factor": float("nan")}, r"scaling_factor got nan; needs a finite"),
    ({"num_sequences": 3}, r"num_sequences got 3; needs 1 or more, a divisor of the 10 tokens"),
    ({"num_sequences": 0}, r"num_sequences got 0; needs 1 or more"),
    ({"expert_bias": torch.zeros(7)}, r"expert_bias got shape \[7\]; needs \[8\]"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_a_bad_argument_is_named(device, change, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        moe_route(torch.zeros(10, 8, device=device), **({"topk": 2} | change))


def test_bad_logits_are_named(device):
    with pytest.raises(RuntimeError, match=r"moe_route: logits got 3 dimensions; needs 2"):
        moe_route(torch.zeros(2, 3, 4, device=device), 2)
    with pytest.raises(
        RuntimeError, match=r"logits got shape \[2, 1025\]; needs 1 to 1024 experts"
    ):
        moe_route(torch.zeros(2, 1025, device=device), 2)
    with pytest.raises(RuntimeError, match=r"moe_route: logits got dtype int64; needs"):
        moe_route(torch.zeros(2, 8, device=device, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match=r"moe_route: logits got list; needs a tensor"):
        moe_route([[1.0]], 1)


def test_a_loss_without_sums_says_how_to_get_them(device):
    routed = moe_route(torch.zeros(4, 8, device=device), 2)
    for loss in (router_load_balancing_loss, router_z_loss):
        with pytest.raises(ValueError, match=f"{loss.__name__}: routed got .*return_sums=True"):
            loss(routed)


@pytest.mark.cuda
def test_a_captured_layer_of_routing_replays_with_other_logits():
    logits = logits_of(300, 64, "cuda").requires_grad_()

    def step():
        routed = moe_route(logits, 4, use_pre_softmax=True, num_sequences=3, return_sums=True)
        loss = router_load_balancing_loss(routed) + router_z_loss(routed) + routed.probs.sum()
        return *routed, *torch.autograd.grad(loss, logits)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for scale in (0.1, 1.0, 5.0):
        with torch.no_grad():
            logits.copy_(scale * torch.randn(300, 64))
        graph.replay()
        torch.cuda.synchronize()
        for actual, expected in zip(results, step(), strict=True):
            assert_same_bits(actual, expected)


@pytest.mark.cuda
def test_routing_never_waits_for_the_device():
    logits = logits_of(300, 64, "cuda").requires_grad_()

    def step():
        routed = moe_route(logits, 4, num_sequences=3, return_sums=True)
        loss = router_load_balancing_loss(routed) + router_z_loss(routed)
        return torch.autograd.grad(loss, logits)

    step()
    torch.cuda.synchronize()
    torch.cuda._sleep(NAP)
    step()
    assert not torch.cuda.current_stream().query(), "the host waited for the device"
    torch.cuda.synchronize()


@pytest.mark.cuda
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gpu_and_the_cpu_choose_alike(variant):
    logits = torch.randint(-40, 41, (5000, 96)) / 8  # many ties
    options = keywords(variant, 96, "cpu")
    options.pop("expert_bias", None)
    on_cpu = moe_route(logits, 4, **options)
    on_gpu = moe_route(logits.cuda(), 4, **options)
    wrong = (on_gpu.indices.cpu() != on_cpu.indices).any(1).sum().item()
    # groups are compared by sums of scores, whose last bits are the exponential's
    assert wrong <= (5 if "num_groups" in options else 0)
