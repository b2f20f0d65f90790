"""Nothing waits for the GPU, and streams and threads keep out of each other's way."""

import grouped_gemm
import pytest
import torch
from support import reference
from support.compare import assert_gemm_close, assert_same_bits
from support.cuda import NAP, SIZES, assert_agree, forward_backward, layer_inputs, on_the_cpu
from support.shapes import random_activations, random_indices, random_operands, size_arguments

pytestmark = pytest.mark.cuda

SIZE_PLACES = ["from moe_permute", "device_int64", "device_int32", "offs_int32", "cpu_int64"]


@pytest.fixture
def forbid_synchronization():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


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


@pytest.mark.parametrize("name", ["sinkhorn", "wgrad", "dgrad", "grouped_mm", "out", "fp8", "map"])
def test_other_operators_never_wait_for_the_device(name):
    a, b = random_operands(SIZES, 24, 16, torch.bfloat16, "cuda")
    dy = torch.randn(201, 16, device="cuda").bfloat16()
    sizes = torch.tensor(SIZES, device="cuda")
    offs = torch.cumsum(sizes, 0).int()
    main_grad = torch.zeros(4, 24, 16, device="cuda")
    cost = torch.randn(3000, 8, device="cuda")

    def routed_rows():
        routed = grouped_gemm.moe_route(cost, 2, return_row_map=True, align_size=16)
        return grouped_gemm.moe_permute(cost, routed.row_map, probs=routed.probs)

    fp8 = random_activations(64, 24, torch.float8_e4m3fn, "cuda")
    indices = random_indices(64, 2, 4, "cuda")
    call = {
        "sinkhorn": lambda: grouped_gemm.sinkhorn(cost, return_info=True),
        "wgrad": lambda: grouped_gemm.gmm_wgrad(a, dy, sizes, out=main_grad, accumulate=True),
        "dgrad": lambda: grouped_gemm.gmm_dgrad(dy, b, sizes),
        "grouped_mm": lambda: grouped_gemm.grouped_mm(a, b, offs=offs),
        "out": lambda: grouped_gemm.gmm(a, b, sizes, out=dy),
        "fp8": lambda: grouped_gemm.permute(fp8, indices, 100),
        "map": routed_rows,
    }[name]
    call()
    torch.cuda.synchronize()
    torch.cuda._sleep(NAP)
    call()
    assert not torch.cuda.current_stream().query(), "the host waited for the device"
    torch.cuda.synchronize()


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


def test_a_host_thread_that_has_not_used_the_device_before():
    import threading

    a, b = random_operands(SIZES, 24, 16, torch.bfloat16, "cuda")
    sizes = torch.tensor(SIZES, device="cuda")
    expected = grouped_gemm.gmm(a, b, sizes)  # so few tiles that one launch does it all
    results = []
    for _ in range(3):  # memory comes from PyTorch's cache: no other call makes a context current
        thread = threading.Thread(target=lambda: results.append(grouped_gemm.gmm(a, b, sizes)))
        thread.start()
        thread.join()
    assert len(results) == 3
    for result in results:
        assert_same_bits(result, expected)
