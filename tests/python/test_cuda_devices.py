"""Which GPU runs a call, what stays on it, and its agreement with the CPU."""

import gc
import time

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops
from support import reference
from support.compare import assert_gemm_close, assert_same_bits
from support.cuda import SIZES, assert_agree, forward_backward, layer_inputs, on_the_cpu
from support.shapes import (
    GEMM_DTYPES,
    PERMUTE_DTYPES,
    random_activations,
    random_indices,
    random_operands,
)

pytestmark = pytest.mark.cuda


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


def allocated_bytes_at_rest():
    """Once it stays the same: autograd's own thread may let go of its last tensors only after
    backward() has returned, which under many processes fails to be in time now and then."""
    gc.collect()
    torch.cuda.synchronize()
    readings = []
    while len(readings) < 250 and (len(readings) < 10 or len(set(readings[-10:])) > 1):
        readings.append(torch.cuda.memory_allocated())
        time.sleep(0.02)
    return readings[-1]


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_nothing_is_kept_on_the_device_between_calls(dtype):
    inputs = layer_inputs(dtype=dtype)
    forward_backward(inputs)
    grouped_gemm.sinkhorn(inputs[2].detach())
    before = allocated_bytes_at_rest()
    results = forward_backward(inputs), grouped_gemm.sinkhorn(inputs[2].detach())
    del results
    assert allocated_bytes_at_rest() == before


def test_a_refused_call_leaves_the_context_usable():
    a, b = random_operands(SIZES, 24, 16, torch.float32, "cuda")
    for bad in (torch.tensor([500, 0, 0, 0]), torch.tensor([-1, 0, 0, 0]), torch.tensor([1.0] * 4)):
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            ops.gmm(a, b, bad)
    torch.cuda.synchronize()
    assert_gemm_close(ops.gmm(a, b, torch.tensor(SIZES)), reference.gmm, a, b, SIZES, 24)
