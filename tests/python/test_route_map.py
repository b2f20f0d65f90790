"""moe_route's row map: moe_permute's of the same ids bit for bit, and what that makes of it."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import RowMap, moe_permute, moe_route
from grouped_gemm.nn import MoE
from support.compare import assert_all_zero, assert_same_bits
from support.routing import VARIANTS, keywords, logits_of
from support.shapes import PERMUTE_DTYPES, random_activations

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


@pytest.mark.small
@pytest.mark.parametrize("align_size", ALIGNMENTS)
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 7, 64])
def test_moe_permute_takes_the_map_for_the_ids(device, hidden, dtype, align_size):
    routed = moe_route(logits_of(75, 12, device), 3, return_row_map=True, align_size=align_size)
    x = random_activations(75, hidden, dtype, device)
    scales = torch.rand(75, 3, device=device)
    along = {"probs": routed.probs, "scales": scales}
    expected = moe_permute(x, routed.indices, num_experts=12, align_size=align_size, **along)
    for actual, wanted in zip(moe_permute(x, routed.row_map, **along), expected, strict=True):
        assert_same_bits(actual, wanted)
    alone = moe_permute(x, routed.row_map)
    assert alone.permuted_probs is None and alone.permuted_scales is None
    assert_same_bits(alone.permuted, expected.permuted)


@pytest.mark.parametrize("frozen", ["neither", "x", "probs"])
@pytest.mark.parametrize("align_size", ALIGNMENTS)
def test_its_gradients_are_those_of_the_ids(device, align_size, frozen):
    routed = moe_route(logits_of(75, 12, device), 3, return_row_map=True, align_size=align_size)
    grads = []
    for how in ({}, {"num_experts": 12, "align_size": align_size}):
        slots = routed.indices if how else routed.row_map
        x = torch.arange(75 * 8.0, device=device).view(75, 8).requires_grad_(frozen != "x")
        probs = routed.probs.detach().requires_grad_(frozen != "probs")
        result = moe_permute(x, slots, probs=probs, **how)
        weights = torch.arange(result.permuted.shape[0] * 1.0, device=device)
        loss = (result.permuted * weights[:, None]).sum() + (result.permuted_probs * weights).sum()
        wanted = [t for t in (x, probs) if t.requires_grad]
        grads.append(torch.autograd.grad(loss, wanted))
    for actual, expected in zip(*grads, strict=True):
        assert_same_bits(actual, expected)


def test_a_map_of_moe_permute_itself_with_drops_goes_round_again(device):
    x = random_activations(75, 8, torch.float32, device)
    ids = torch.randint(-1, 8, (75, 3), device=device)
    first = moe_permute(x, ids, num_experts=6, align_size=16)
    again = moe_permute(x, RowMap(first.row_id_map, first.tokens_per_expert, first.offs, 16))
    assert_same_bits(again.permuted, first.permuted)


def test_a_map_of_garbage_reads_and_writes_nothing_outside(device):
    x = random_activations(75, 8, torch.float32, device)
    choices = torch.tensor([-(2**31), -1, 0, 5, 149, 150, 2**31 - 1], dtype=torch.int32)
    for _ in range(3):
        row_id_map, counts, ends = (
            choices[torch.randint(0, len(choices), shape)].to(device)
            for shape in ((2, 75), (6,), (6,))
        )
        probs = torch.rand(75, 2, device=device)
        for align_size in (1, 16):
            result = moe_permute(x, RowMap(row_id_map, counts, ends, align_size), probs=probs)
            named = row_id_map[(row_id_map >= 0) & (row_id_map < result.permuted.shape[0])].unique()
            rest = torch.ones(result.permuted.shape[0], dtype=torch.bool, device=device)
            rest[named.long()] = False
            assert_all_zero(result.permuted_probs[rest])


REFUSED = [
    ({"num_experts": 9}, r"moe_permute: num_experts got 9 beside a row map; needs 8"),
    ({"topk": 3}, r"moe_permute: topk got 3 beside a row map; needs 2"),
    ({"align_size": 8}, r"moe_permute: align_size got 8 beside a row map; needs 16"),
    ({"capacity": 4}, r"moe_permute: capacity got 4 beside a row map; needs None"),
    ({"drop_policy": "probs"}, r"moe_permute: drop_policy got 'probs' beside a row map"),
    ({"probs": torch.rand(10, 3)}, r"moe_permute: probs got shape \[10, 3\]; needs \[10, 2\]"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_an_option_that_a_map_leaves_no_room_for_is_named(device, change, message):
    routed = moe_route(logits_of(10, 8, device), 2, return_row_map=True, align_size=16)
    change = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    with pytest.raises((ValueError, RuntimeError), match=message):
        moe_permute(torch.zeros(10, 4, device=device), routed.row_map, **change)


def test_a_map_that_does_not_fit_is_named(device):
    x = torch.zeros(10, 4, device=device)
    good = moe_route(logits_of(10, 8, device), 2, return_row_map=True).row_map
    with pytest.raises(RuntimeError, match=r"moe_permute: row_id_map got shape \[2, 10\]; needs"):
        moe_permute(x[:5], good)
    with pytest.raises(RuntimeError, match=r"moe_permute: row_id_map got dtype int64"):
        moe_permute(x, good._replace(row_id_map=good.row_id_map.long()))
    with pytest.raises(RuntimeError, match=r"moe_permute: tokens_per_expert got shape \[5\]"):
        moe_permute(x, good._replace(tokens_per_expert=good.tokens_per_expert[:5]))
    with pytest.raises(RuntimeError, match=r"moe_permute: align_size got 0; needs 1"):
        moe_permute(x, good._replace(align_size=0))


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


def captured(function):
    """Runs `function` on a side stream first, then captures it; returns (graph, its results)."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


@pytest.mark.cuda
@pytest.mark.parametrize("tokens", [64, 3000])
def test_a_captured_map_replays_with_other_logits(tokens):
    logits = logits_of(tokens, 64, "cuda").requires_grad_()
    x = torch.randn(tokens, 24, device="cuda", requires_grad=True)

    def step():
        y, *integers = routed_rows(logits, x)
        return [y, *integers, *torch.autograd.grad(y.square().sum(), (logits, x))]

    graph, results = captured(step)
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
