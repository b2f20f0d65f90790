"""moe_route as a citizen of PyTorch: autocast, compile, graphs, streams, errors."""

import pytest
import torch
from grouped_gemm import moe_route, router_load_balancing_loss, router_z_loss
from support.compare import assert_same_bits
from support.routing import VARIANTS, keywords, logits_of

NAP = 500_000_000  # cycles


def test_autocast_changes_nothing(device):
    logits = logits_of(50, 8, device)
    expected = moe_route(logits, 2, return_sums=True)[:6]
    with torch.autocast(device.type, torch.bfloat16):
        routed = moe_route(logits, 2, return_sums=True)[:6]
    for actual, wanted in zip(routed, expected, strict=True):
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


def losses_and_weights(logits):
    routed = moe_route(logits, 4, use_pre_softmax=True, num_sequences=3, return_sums=True)
    loss = router_load_balancing_loss(routed) + router_z_loss(routed) + routed.probs.sum()
    return *routed[:6], *torch.autograd.grad(loss, logits)


def weights_alone(logits):
    routed = moe_route(logits, 4)
    return *routed[:6], *torch.autograd.grad(routed.probs.square().sum(), logits)


STEPS = [losses_and_weights, weights_alone]


@pytest.mark.cuda
@pytest.mark.parametrize("step", STEPS)
def test_a_captured_layer_of_routing_replays_with_other_logits(step):
    logits = logits_of(300, 64, "cuda").requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(logits)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(logits)
    for scale in (0.1, 1.0, 5.0):
        with torch.no_grad():
            logits.copy_(scale * torch.randn(300, 64))
        graph.replay()
        torch.cuda.synchronize()
        for actual, expected in zip(results, step(logits), strict=True):
            assert_same_bits(actual, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("step", STEPS)
def test_two_streams_route_at_once(step):
    inputs = [logits_of(3000, 64, "cuda").requires_grad_() for _ in range(2)]
    expected = [step(logits) for logits in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for _ in range(20):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results.append((i, step(inputs[i])))
    torch.cuda.synchronize()
    for i, run in results:
        for actual, wanted in zip(run, expected[i], strict=True):
            assert_same_bits(actual, wanted)


@pytest.mark.cuda
@pytest.mark.parametrize("tokens", [100, 5000, 40_000])
def test_gradients_that_follow_their_inputs_without_pause_wait_for_them(tokens):
    """Their kernel starts before the one in front has ended; it must not read before."""
    logits = logits_of(tokens, 64, "cuda").requires_grad_()
    probs = moe_route(logits, 4).probs
    rounds = [torch.rand(tokens, 4, device="cuda") for _ in range(40)]
    expected = []
    for grad in rounds:
        expected.append(torch.autograd.grad(probs, logits, grad * 2, retain_graph=True)[0])
        torch.cuda.synchronize()
    results = []
    for grad in rounds:
        doubled = grad * 2  # written just before it is read
        results.append(torch.autograd.grad(probs, logits, doubled, retain_graph=True)[0])
    for actual, wanted in zip(results, expected, strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("step", STEPS)
def test_logits_decide_the_device_whichever_is_current(step):
    logits = logits_of(300, 64, "cuda:1").requires_grad_()
    with torch.cuda.device(0):
        results = step(logits)
    with torch.cuda.device(1):
        expected = step(logits)
    for actual, wanted in zip(results, expected, strict=True):
        assert actual.device.index == 1
        assert_same_bits(actual, wanted)
