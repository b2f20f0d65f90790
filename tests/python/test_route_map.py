"""moe_route's row map: moe_permute's of the same ids bit for bit, and what that makes of it."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import RowMap, moe_permute, moe_route
from grouped_gemm.nn import MoE
from support.compare import assert_same_bits
from support.cuda import capture
from support.routing import VARIANTS, keywords, logits_of

ALIGNMENTS = [1, 16, 128]
# (T, E, topk): one block's slots and more, every number of lanes, the limits, whole and cut ranges
SHAPES = [(1, 4, 1), (7, 8, 2), (65, 8, 8), (300, 12, 5), (50, 32, 32), (130, 64, 8), (512, 128, 8),
          (513, 128, 8), (1000, 100, 6), (9, 1024, 32), (3001, 1024, 2), (2000, 300, 3),
          (5000, 32, 32), (20_001, 16, 7)]  # fmt: skip


def map_of_ids(routed, num_experts, align_size):
    """The map that moe_permute sorts out itself, with rows that have no features."""
    x = torch.empty(routed.indices.shape[0], 0, device=routed.indices.device)
    result = moe_permute(x, routed.indices, num_experts=num_experts, align_size=align_size)
    return result[1:4]


def assert_is_the_map_of_its_ids(routed, num_experts, align_size=1):
    assert isinstance(routed.row_map, RowMap) and routed.row_map.align_size == align_size
    expected = map_of_ids(routed, num_experts, align_size)
    for actual, wanted in zip(routed.row_map[:3], expected, strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.small
@pytest.mark.parametrize("align_size", ALIGNMENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_map_is_that_of_moe_permute(device, shape, align_size):
    tokens, experts, topk = shape
    logits = logits_of(tokens, experts, device)
    routed = moe_route(logits, topk, return_row_map=True, align_size=align_size)
    assert_is_the_map_of_its_ids(routed, experts, align_size)
    plain = moe_route(logits, topk)
    assert plain.row_map is None
    for actual, wanted in zip(routed[:4], plain[:4], strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tokens", [60, 1200])
def test_every_way_to_choose_has_its_map(device, variant, tokens):
    logits = logits_of(tokens, 64, device)
    options = keywords(variant, 64, device)
    routed = moe_route(logits, 8, return_row_map=True, align_size=16, **options)
    assert_is_the_map_of_its_ids(routed, 64, 16)


@pytest.mark.parametrize("return_sums", [False, True])
@pytest.mark.parametrize("num_sequences", [1, 3, 30])
@pytest.mark.parametrize("tokens", [90, 3000])
def test_sequences_and_sums_beside_it_change_neither(device, tokens, num_sequences, return_sums):
    logits = logits_of(tokens, 20, device)
    options = {"num_sequences": num_sequences, "return_sums": return_sums}
    routed = moe_route(logits, 4, return_row_map=True, **options)
    assert_is_the_map_of_its_ids(routed, 20)
    for actual, wanted in zip(routed[:6], moe_route(logits, 4, **options)[:6], strict=True):
        assert_same_bits(actual, wanted)


@pytest.mark.parametrize("tokens", [100, 4000])
def test_ties_and_one_expert_for_all(device, tokens):
    ties = torch.randint(0, 3, (tokens, 40)).float().to(device)
    assert_is_the_map_of_its_ids(moe_route(ties, 5, return_row_map=True), 40)
    same = moe_route(torch.zeros(tokens, 40, device=device), 2, return_row_map=True, align_size=128)
    assert_is_the_map_of_its_ids(same, 40, 128)
    assert same.row_map.tokens_per_expert.tolist() == [tokens, tokens] + [0] * 38


@pytest.mark.parametrize("num_sequences", [1, 3])
def test_without_tokens_the_map_is_empty_and_every_end_is_zero(device, num_sequences):
    logits = torch.empty(0, 8, device=device)
    routed = moe_route(logits, 2, return_row_map=True, align_size=16, num_sequences=num_sequences)
    assert routed.row_map.row_id_map.shape == (2, 0)
    assert routed.row_map.offs.tolist() == routed.row_map.tokens_per_expert.tolist() == [0] * 8
    assert moe_permute(torch.empty(0, 4, device=device), routed.row_map).permuted.shape == (0, 4)


def test_nan_and_infinite_logits_leave_a_right_map(device):
    logits = logits_of(2000, 16, device)
    logits[::7, 3] = torch.nan
    logits[::5] = -torch.inf
    logits[1::9, 8:] = torch.inf
    assert_is_the_map_of_its_ids(moe_route(logits, 4, return_row_map=True), 16)


def test_padding_needs_the_map_and_a_right_size(device):
    logits = torch.zeros(10, 8, device=device)
    with pytest.raises(RuntimeError, match="moe_route: align_size got 16 without a row map"):
        moe_route(logits, 2, align_size=16)
    with pytest.raises(RuntimeError, match="moe_route: align_size got 0; needs 1"):
        moe_route(logits, 2, return_row_map=True, align_size=0)
    with pytest.raises(RuntimeError, match="moe_route: align_size"):
        moe_route(logits, 2, return_row_map=True, align_size=2**31 - 1)


def test_checked_routing_has_its_map_too(device, monkeypatch):
    monkeypatch.setenv("GG_CHECK_ROUTING", "1")
    for tokens in (50, 3000):
        routed = moe_route(logits_of(tokens, 16, device), 4, return_row_map=True)
        assert_is_the_map_of_its_ids(routed, 16)


def routed_rows(logits, x):
    """Routing and permutation by its map, all that is differentiable in one number."""
    routed = moe_route(logits, 3, num_sequences=2, return_row_map=True, align_size=16)
    result = moe_permute(x, routed.row_map, probs=routed.probs)
    y = grouped_gemm.moe_unpermute(
        result.permuted * result.permuted_probs[:, None], result.row_id_map
    )
    return y, routed.row_map.offs, routed.row_map.row_id_map


def test_it_compiles_in_one_graph_forward_and_backward(device):
    torch._dynamo.reset()
    compiled = torch.compile(routed_rows, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (30, 8, 52):
        logits = logits_of(tokens, 16, device).requires_grad_()
        x = torch.randn(tokens, 24, device=device, requires_grad=True)
        results = []
        for function in (compiled, routed_rows):
            y, *integers = function(logits, x)
            results.append([y, *integers, *torch.autograd.grad(y.square().sum(), (logits, x))])
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def by_ids(moe, x):
    """MoE.forward as its parts, with the permutation of the ids."""
    tokens = x.reshape(-1, moe.hidden_size)
    routing = moe.gate(tokens)
    permuted = moe_permute(tokens, routing.indices, num_experts=moe.num_experts)
    rows = moe.experts(permuted.permuted, permuted.offs)
    return grouped_gemm.moe_unpermute(rows, permuted.row_id_map, routing.probs).reshape(x.shape)


@pytest.mark.parametrize("shape", [(5, 16), (2, 700, 16), (0, 16)], ids=str)
def test_a_layer_by_the_map_has_the_bits_of_a_layer_by_the_ids(device, shape):
    moe = MoE(16, 24, 8, 3, score_function="sigmoid", normalize_topk=True, device=device)
    x = torch.randn(shape, device=device, requires_grad=True)
    results = []
    for y in (moe(x), by_ids(moe, x)):
        wanted = (x, *moe.parameters())
        results.append([y, *torch.autograd.grad(y, wanted, torch.ones_like(y))])
    for actual, expected in zip(*results, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("tokens", [64, 3000])
def test_a_captured_map_replays_with_other_logits(tokens):
    logits = logits_of(tokens, 64, "cuda").requires_grad_()
    x = torch.randn(tokens, 24, device="cuda", requires_grad=True)

    def step():
        y, *integers = routed_rows(logits, x)
        return [y, *integers, *torch.autograd.grad(y.square().sum(), (logits, x))]

    graph, results = capture(step)
    for scale in (0.1, 1.0, 5.0):
        with torch.no_grad():
            logits.copy_(scale * torch.randn(tokens, 64))
        graph.replay()
        torch.cuda.synchronize()
        for actual, expected in zip(results, step(), strict=True):
            assert_same_bits(actual, expected)


@pytest.mark.cuda
def test_two_streams_make_their_maps_at_once():
    inputs = [logits_of(tokens, 64, "cuda") for tokens in (3000, 400)]
    expected = [moe_route(logits, 4, return_row_map=True).row_map[:3] for logits in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for _ in range(20):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results.append((i, moe_route(inputs[i], 4, return_row_map=True).row_map[:3]))
    torch.cuda.synchronize()
    for i, maps in results:
        for actual, wanted in zip(maps, expected[i], strict=True):
            assert_same_bits(actual, wanted)


@pytest.mark.cuda
@pytest.mark.parametrize("hidden", [72, 7])
@pytest.mark.parametrize("tokens", [100, 5000, 40_000])
def test_kernels_that_start_before_the_one_in_front_has_ended_wait_for_it(tokens, hidden):
    """Logits, rows and map are each written just before they are read."""
    logits = [logits_of(tokens, 24, "cuda") for _ in range(20)]
    x = torch.randn(tokens, hidden, device="cuda").bfloat16()
    torch.cuda.synchronize()
    results = []
    for number, given in enumerate(logits):
        routed = moe_route(given * 2, 4, return_row_map=True, align_size=1 if number % 2 else 16)
        rows = x * (1 + number)
        results.append((routed, moe_permute(rows, routed.row_map, probs=routed.probs)))
    torch.cuda.synchronize()
    for number, (routed, result) in enumerate(results):
        align_size = 1 if number % 2 else 16
        ids = moe_route(logits[number] * 2, 4).indices
        assert_same_bits(routed.indices, ids)
        expected = moe_permute(
            x * (1 + number), ids, num_experts=24, probs=routed.probs, align_size=align_size
        )
        for actual, wanted in zip(result[:5], expected[:5], strict=True):
            assert_same_bits(actual, wanted)


@pytest.mark.cuda
def test_very_many_slots_are_counted_by_the_maps_own_launch():
    logits = logits_of(600_000, 16, "cuda", torch.bfloat16)
    assert_is_the_map_of_its_ids(moe_route(logits, 8, return_row_map=True), 16)
