"""What only a GPU can show: no waiting, graphs, streams, devices, and agreement with the CPU.

The row map of many slots: test_cuda_row_map.py.
"""

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops
from support import reference
from support.compare import assert_gemm_close, assert_same_bits, wgrad_depth
from support.shapes import (
    GEMM_DTYPES,
    PERMUTE_DTYPES,
    random_activations,
    random_indices,
    random_operands,
    size_arguments,
)

pytestmark = pytest.mark.cuda

SIZES = [30, 0, 170, 1]
OTHER_SIZES = [[0, 0, 0, 201], [201, 0, 0, 0], [50, 50, 50, 51], [0, 0, 0, 0], [7, 100, 0, 3]]
NAP = 500_000_000  # cycles: a quarter of a second and more


def expert_layer(x, indices, probs, w1, w2, **sizes):
    """A public forward pass; sizes empty means: take them from moe_permute."""
    if sizes:
        permuted, row_id_map = grouped_gemm.permute(x, indices)
    else:
        routed = grouped_gemm.moe_permute(x, indices, num_experts=w1.shape[0])
        permuted, row_id_map, sizes = routed.permuted, routed.row_id_map, {"offs": routed.offs}
    hidden = torch.relu(grouped_gemm.gmm(permuted, w1, **sizes))
    out = grouped_gemm.gmm(hidden, w2, **sizes)
    return grouped_gemm.unpermute(out, row_id_map.flatten(), probs)


def layer_inputs(tokens=64, dtype=torch.float32, device="cuda"):
    indices = random_indices(tokens, 2, 4, device)
    x = torch.randn(tokens, 16).to(dtype).to(device).requires_grad_()
    probs = torch.rand(tokens, 2).to(device).requires_grad_()
    w1 = torch.randn(4, 16, 24).to(dtype).to(device).requires_grad_()
    w2 = torch.randn(4, 24, 16).to(dtype).to(device).requires_grad_()
    return x, indices, probs, w1, w2


def forward_backward(inputs, **sizes):
    y = expert_layer(*inputs, **sizes)
    wanted = [t for t in inputs if t.requires_grad]
    return [y, *torch.autograd.grad(y, wanted, torch.ones_like(y))]


def on_the_cpu(inputs):
    """The same computation by the CPU operators, which other tests hold to the references."""
    moved = [t.detach().cpu().requires_grad_(t.requires_grad) for t in inputs]
    return forward_backward(moved)


def assert_agree(actual, expected):
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left.cpu(), right, rtol=1e-4, atol=1e-4)


@pytest.fixture
def forbid_synchronization():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


SIZE_PLACES = ["from moe_permute", "device_int64", "device_int32", "offs_int32", "cpu_int64"]


@pytest.mark.parametrize("kind", SIZE_PLACES)
def test_forward_and_backward_never_wait_for_the_device(kind, request):
    inputs = layer_inputs()
    counts = torch.bincount(inputs[1].flatten(), minlength=4).tolist()
    sizes = {} if kind == "from moe_permute" else size_arguments(counts, kind, "cuda")
    forward_backward(inputs, **sizes)  # first-call work is allowed to wait
    request.getfixturevalue("forbid_synchronization")
    torch.cuda._sleep(NAP)
    results = forward_backward(inputs, **sizes)
    still_busy = not torch.cuda.current_stream().query()
    torch.cuda.set_sync_debug_mode("default")
    assert still_busy, "the host waited for the device"
    assert_agree(results, on_the_cpu(inputs))


@pytest.mark.parametrize("name", ["sinkhorn", "wgrad", "dgrad", "grouped_mm", "out", "fp8"])
def test_other_operators_never_wait_for_the_device(name):
    a, b = random_operands(SIZES, 24, 16, torch.bfloat16, "cuda")
    dy = torch.randn(201, 16, device="cuda").bfloat16()
    sizes = torch.tensor(SIZES, device="cuda")
    offs = torch.cumsum(sizes, 0).int()
    main_grad = torch.zeros(4, 24, 16, device="cuda")
    cost = torch.randn(3000, 8, device="cuda")
    fp8 = random_activations(64, 24, torch.float8_e4m3fn, "cuda")
    indices = random_indices(64, 2, 4, "cuda")
    call = {
        "sinkhorn": lambda: grouped_gemm.sinkhorn(cost, return_info=True),
        "wgrad": lambda: grouped_gemm.gmm_wgrad(a, dy, sizes, out=main_grad, accumulate=True),
        "dgrad": lambda: grouped_gemm.gmm_dgrad(dy, b, sizes),
        "grouped_mm": lambda: grouped_gemm.grouped_mm(a, b, offs=offs),
        "out": lambda: grouped_gemm.gmm(a, b, sizes, out=dy),
        "fp8": lambda: grouped_gemm.permute(fp8, indices, 100),
    }[name]
    call()
    torch.cuda.synchronize()
    torch.cuda._sleep(NAP)
    call()
    assert not torch.cuda.current_stream().query(), "the host waited for the device"
    torch.cuda.synchronize()


def capture(function):
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


@pytest.mark.parametrize("kind", ["device_int64", "device_int32", "offs_int32", "offs_int64"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_captured_gmm_replays_with_other_sizes(dtype, kind):
    a, b = random_operands(SIZES, 24, 40, dtype, "cuda", requires_grad=True)
    dy = torch.randn(201, 40).to(dtype).cuda()
    sizes = size_arguments(SIZES, kind, "cuda")
    (held,) = sizes.values()

    def step():
        y = grouped_gemm.gmm(a, b, **sizes)
        return y, *torch.autograd.grad(y, (a, b), dy)

    graph, (y, da, db) = capture(step)
    for other in OTHER_SIZES:
        (values,) = size_arguments(other, kind, "cuda").values()
        held.copy_(values)
        graph.replay()
        torch.cuda.synchronize()
        assert_gemm_close(y, reference.gmm, a, b, other, 24)
        assert_gemm_close(da, reference.gmm_dgrad, dy, b, other, 40)
        assert_gemm_close(db, reference.gmm_wgrad, a, dy, other, wgrad_depth(other))


@pytest.mark.parametrize("native", [False, True], ids=["drop-in", "native"])
def test_a_captured_layer_replays_with_other_routing_and_activations(native):
    inputs = layer_inputs()
    counts = torch.bincount(inputs[1].flatten(), minlength=4)
    sizes = {} if native else {"batch_sizes": counts}
    graph, results = capture(lambda: forward_backward(inputs, **sizes))
    for num_experts in (4, 1, 3):
        with torch.no_grad():
            inputs[0].copy_(torch.randn(64, 16))
            inputs[1].copy_(random_indices(64, 2, num_experts))
            counts.copy_(torch.bincount(inputs[1].flatten(), minlength=4))
        graph.replay()
        torch.cuda.synchronize()
        assert_agree(results, on_the_cpu(inputs))


def test_a_captured_permute_replays_with_drops_and_large_ids():
    x = random_activations(65, 8, torch.bfloat16, "cuda")
    indices = random_indices(65, 3, 6, "cuda")
    graph, (permuted, row_id_map) = capture(lambda: ops.permute(x, indices, 150))
    for ids in ([0, 1, 2], [-1, 3, 4], [0, 2**63 - 1], [10**6, 10**7, 5], [-1], [4095, 4096]):
        indices.copy_(torch.tensor(ids)[torch.randint(0, len(ids), (65, 3))])
        graph.replay()
        torch.cuda.synchronize()
        mapping, source = reference.row_map(indices, 150)
        assert row_id_map.tolist() == mapping
        assert_same_bits(permuted, reference.gather_rows(x, source))


def test_a_captured_sinkhorn_replays_with_other_logits():
    cost = torch.randn(300, 8, device="cuda")
    graph, result = capture(lambda: grouped_gemm.sinkhorn(cost))
    for scale in (0.1, 1.0, 4.0):
        cost.copy_(scale * torch.randn(300, 8))
        graph.replay()
        torch.cuda.synchronize()
        assert_same_bits(result, grouped_gemm.sinkhorn(cost))


def test_operators_run_on_the_current_stream_behind_a_delayed_producer():
    good = layer_inputs()
    expected = on_the_cpu(good)
    late = [torch.zeros_like(t).requires_grad_(t.requires_grad) for t in good]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(NAP)
        with torch.no_grad():
            for slot, value in zip(late, good, strict=True):
                slot.copy_(value)
        results = forward_backward(late)
        counts = grouped_gemm.moe_permute(late[0], late[1], num_experts=4).tokens_per_expert
        dropin = forward_backward(late, batch_sizes=counts)
        result, _ = grouped_gemm.sinkhorn(late[2].detach(), return_info=True)
    stream.synchronize()
    assert_agree(results, expected)
    assert_agree(dropin, expected)
    assert_same_bits(result, grouped_gemm.sinkhorn(good[2].detach()))


def test_host_sizes_are_read_at_call_time_even_behind_a_delayed_producer():
    a, b = random_operands(SIZES, 24, 16, torch.float32, "cuda")
    pinned = torch.tensor(SIZES).pin_memory()
    for sizes in (torch.tensor(SIZES), pinned):
        torch.cuda._sleep(NAP)
        y = grouped_gemm.gmm(a, b, sizes)
        sizes.fill_(0)  # the caller reuses its buffer while the kernel has not started
        assert_gemm_close(y, reference.gmm, a, b, SIZES, 24)


def test_two_streams_at_once_do_not_disturb_each_other():
    inputs = [layer_inputs(500), layer_inputs(300)]
    expected = [forward_backward(i) for i in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    results = [[], []]
    torch.cuda.synchronize()
    for _ in range(20):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[i].append(forward_backward(inputs[i]))
    torch.cuda.synchronize()
    for i in range(2):
        for run in results[i]:
            for actual, wanted in zip(run, expected[i], strict=True):
                assert_same_bits(actual, wanted)


def test_two_host_threads_do_not_disturb_each_other():
    import concurrent.futures

    inputs = [layer_inputs(200), layer_inputs(300)]
    expected = [forward_backward(i) for i in inputs]

    def work(i):
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda.current_stream().synchronize()
            results = [forward_backward(inputs[i]) for _ in range(20)]
            torch.cuda.current_stream().synchronize()
        return results

    torch.cuda.synchronize()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for i, runs in enumerate(pool.map(work, range(2))):
            for run in runs:
                for actual, wanted in zip(run, expected[i], strict=True):
                    assert_same_bits(actual, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("current", [0, 1])
@pytest.mark.parametrize("used", [0, 1])
def test_tensors_decide_the_device_whichever_is_current(used, current):
    inputs = layer_inputs(device=f"cuda:{used}")
    expected = on_the_cpu(inputs)
    with torch.cuda.device(current):
        results = forward_backward(inputs)
        host = forward_backward(
            inputs, batch_sizes=torch.bincount(inputs[1].flatten().cpu(), minlength=4)
        )
        grouped_gemm.sinkhorn(torch.randn(300, 4, device=f"cuda:{used}"))
        assert torch.cuda.current_device() == current
    assert all(t.device.index == used for t in results)
    assert_agree(results, expected), assert_agree(host, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_operands_on_different_gpus_are_an_error_that_names_them():
    a, b = random_operands(SIZES, 24, 16, torch.float32, "cuda:0")
    with pytest.raises((ValueError, RuntimeError), match="(?s)gmm.*cuda:[01]"):
        ops.gmm(a, b.to("cuda:1"), torch.tensor(SIZES))


@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
def test_the_gpu_and_the_cpu_give_the_same_bits_where_sums_have_one_order(dtype):
    x = random_activations(65, 24, dtype, "cpu")
    if dtype == torch.float8_e5m2:
        x[:5] = torch.full((5, 24), 57344.0).to(dtype)
    if dtype == torch.float8_e4m3fn:
        x[:5] = torch.full((5, 24), -448.0).to(dtype)
    indices = random_indices(65, 3, 6)
    indices[7] = -1
    probs = torch.randint(0, 64, (65, 3)) / 32
    on_cpu = ops.permute(x, indices, 150)
    on_gpu = ops.permute(x.cuda(), indices.cuda(), 150)
    for left, right in zip(on_gpu, on_cpu, strict=True):
        assert_same_bits(left, right)
    left = ops.unpermute(*on_gpu, probs.cuda())
    assert_same_bits(left, ops.unpermute(*on_cpu, probs))


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_nothing_is_kept_on_the_device_between_calls(dtype):
    inputs = layer_inputs(dtype=dtype)
    forward_backward(inputs)
    grouped_gemm.sinkhorn(inputs[2].detach())
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    results = forward_backward(inputs), grouped_gemm.sinkhorn(inputs[2].detach())
    del results
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_a_refused_call_leaves_the_context_usable():
    a, b = random_operands(SIZES, 24, 16, torch.float32, "cuda")
    for bad in (torch.tensor([500, 0, 0, 0]), torch.tensor([-1, 0, 0, 0]), torch.tensor([1.0] * 4)):
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            ops.gmm(a, b, bad)
    torch.cuda.synchronize()
    assert_gemm_close(ops.gmm(a, b, torch.tensor(SIZES)), reference.gmm, a, b, SIZES, 24)


def test_permute_with_options_is_captured_and_replays_with_another_routing():
    tokens, top_k, experts = 300, 3, 24
    x = random_activations(tokens, 64, torch.bfloat16, "cuda")
    scores = torch.rand(tokens, experts, device="cuda")
    sizes = torch.tensor([200, 100], device="cuda")
    order = torch.tensor([1, 0], device="cuda")

    def routed():
        rows = grouped_gemm.sort_chunks(x, sizes, order).output
        routing_map = scores >= scores.topk(top_k).values[:, -1:]
        result = grouped_gemm.moe_permute(
            rows,
            routing_map,
            topk=top_k,
            probs=scores,
            align_size=16,
            capacity=32,
            drop_policy="probs",
        )
        y = grouped_gemm.moe_unpermute(result.permuted, result.row_id_map, residual=rows)
        return [*result[:5], y]

    graph, captured = capture(routed)
    for split in ([200, 100], [3, 297]):
        scores.copy_(torch.rand(tokens, experts))
        sizes.copy_(torch.tensor(split))
        graph.replay()
        torch.cuda.synchronize()
        for one, other in zip(captured, routed(), strict=True):
            assert_same_bits(one, other)
