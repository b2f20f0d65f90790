"""Group sizes: on the CPU or the device, int32 or int64, as sizes or as cumulative ends.

Sizes on the CPU are checked; sizes on the device are not read back, so whatever they hold, every
output row is written and no access leaves the operands.
"""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import GuardedBuffer
from support.compare import assert_all_zero, assert_gemm_close, assert_same_bits, wgrad_depth
from support.shapes import GROUPS, SIZE_KINDS, random_operands, size_arguments

ODD_SIZES = [3, 0, 17, 1]
ERRORS = (ValueError, TypeError, RuntimeError)


@pytest.mark.small
@pytest.mark.parametrize("kind", SIZE_KINDS)
@pytest.mark.parametrize("name", ["every_second_empty", "no_tokens", "around_tile_edges"])
def test_sizes_mean_the_same_wherever_they_lie_and_however_they_are_written(device, name, kind):
    sizes = GROUPS[name]
    a, b = random_operands(sizes, 24, 16, torch.bfloat16, device, extra_rows=3)
    a.requires_grad_(), b.requires_grad_()
    y = grouped_gemm.gmm(a, b, **size_arguments(sizes, kind, device))
    dy = torch.randn(y.shape).bfloat16().to(device)
    y.backward(dy)
    assert_gemm_close(y, reference.gmm, a, b, sizes, 24)
    assert_gemm_close(a.grad, reference.gmm_dgrad, dy, b, sizes, 16)
    assert_gemm_close(b.grad, reference.gmm_wgrad, a, dy, sizes, wgrad_depth(sizes))
    same = grouped_gemm.gmm(a, b, torch.tensor(sizes))
    assert_same_bits(y, same)


@pytest.mark.parametrize("kind", SIZE_KINDS)
def test_dgrad_and_wgrad_take_sizes_of_every_kind(device, kind):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device)
    dy = torch.randn(a.shape[0], 16).to(device)
    dx = grouped_gemm.gmm_dgrad(dy, b, **size_arguments(ODD_SIZES, kind, device))
    dw = grouped_gemm.gmm_wgrad(a, dy, **size_arguments(ODD_SIZES, kind, device))
    assert_gemm_close(dx, reference.gmm_dgrad, dy, b, ODD_SIZES, 16)
    assert_gemm_close(dw, reference.gmm_wgrad, a, dy, ODD_SIZES, wgrad_depth(ODD_SIZES))


@pytest.mark.parametrize("keyword", ["batch_sizes", "offs"])
def test_sizes_may_be_a_strided_view(device, keyword):
    values = ODD_SIZES if keyword == "batch_sizes" else [3, 3, 20, 21]
    strided = torch.tensor([[v, -7] for v in values], device=device)[:, 0]
    assert not strided.is_contiguous()
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device)
    y = grouped_gemm.gmm(a, b, **{keyword: strided})
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


def test_sizes_copied_to_the_cpu_without_blocking_are_read_at_call_time(device):
    counts = torch.bincount(torch.tensor([0] * 3 + [2] * 17 + [3], device=device), minlength=4)
    batch_sizes = counts.to("cpu", non_blocking=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device)
    y = grouped_gemm.gmm(a, b, batch_sizes)
    batch_sizes.fill_(0)
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


def test_offs_on_the_cpu_are_accepted_for_cpu_operands():
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, "cpu")
    y = grouped_gemm.gmm(a, b, None, offs=torch.tensor([3, 3, 20, 21], dtype=torch.int32))
    assert_gemm_close(y, reference.gmm, a, b, ODD_SIZES, 24)


BIG = 2**63 - 1
BAD_CPU_SIZES = {
    "sum beyond T": ([3, 0, 17, 2], "batch_sizes"),
    "one far beyond T": ([0, 1 << 40, 0, 0], "batch_sizes"),
    "negative": ([3, -1, 17, 1], "batch_sizes"),
    "negative but the sum fits": ([30, -10, 0, 0], "batch_sizes"),
    "the sum overflows int64": ([BIG, BIG, 2, 0], "batch_sizes"),
    "the sum overflows to T": ([BIG, BIG, 2 + 21, 0], "batch_sizes"),
    "offs decreasing": ([3, 2, 20, 21], "offs"),
    "offs beyond T": ([3, 3, 20, 22], "offs"),
    "offs negative": ([-1, 3, 20, 21], "offs"),
}


@pytest.mark.parametrize("function", ["gmm", "gmm_dgrad", "gmm_wgrad"])
@pytest.mark.parametrize(("values", "keyword"), BAD_CPU_SIZES.values(), ids=BAD_CPU_SIZES)
def test_bad_sizes_on_the_cpu_are_an_error_and_nothing_is_written(function, values, keyword):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, "cpu")
    dy = torch.randn(a.shape[0], 16)
    operands, shape = {
        "gmm": ((a, b), dy.shape),
        "gmm_dgrad": ((dy, b), a.shape),
        "gmm_wgrad": ((a, dy), b.shape),
    }[function]
    out = torch.full(shape, 7.0)
    with pytest.raises(ERRORS, match=keyword):
        getattr(grouped_gemm, function)(*operands, **{keyword: torch.tensor(values)}, out=out)
    assert (out == 7.0).all()


@pytest.mark.cuda
@pytest.mark.parametrize("values", [[3, 0, 17, 2], [3, -1, 17, 1], [BIG, BIG, 2 + 21, 0]], ids=str)
def test_bad_sizes_on_the_cpu_are_an_error_beside_gpu_operands_too(values):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, "cuda")
    with pytest.raises(ERRORS, match="batch_sizes"):
        grouped_gemm.gmm(a, b, torch.tensor(values))


ABSURD_DEVICE_VALUES = {
    "negative first": [-5, 10, 3, 4],
    "negative in the middle": [4, -20, 30, 2],
    "all negative": [-1, -1, -1, -1],
    "beyond T": [1000, 1000, 1000, 1000],
    "far beyond 32 bits": [1 << 40, -(1 << 40), 1 << 62, 3],
    "the sum overflows": [BIG, BIG, BIG, BIG],
    "the smallest": [-(2**63), -(2**63), 5, BIG],
    "decreasing": [21, 3, 10, 0],
}


@pytest.mark.cuda
@pytest.mark.small
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("keyword", ["batch_sizes", "offs"])
@pytest.mark.parametrize("values", ABSURD_DEVICE_VALUES.values(), ids=ABSURD_DEVICE_VALUES)
def test_absurd_sizes_on_the_device_stay_inside_the_operands(values, keyword, dtype):
    info = torch.iinfo(dtype)
    clamped = [min(max(v, info.min), info.max) for v in values]
    sizes = {keyword: torch.tensor(clamped, dtype=dtype, device="cuda")}
    fenced = [
        GuardedBuffer(s, torch.float32, "cuda", 1.0) for s in [(21, 24), (4, 24, 16), (21, 16)]
    ]
    a, b, dy = (f.tensor for f in fenced)
    for f in fenced:  # what lies around the operands is NaN
        f._storage[: f._begin] = 0xFF
        f._storage[f._end :] = 0xFF
    y = GuardedBuffer((21, 16), torch.float32, "cuda")
    dx = GuardedBuffer((21, 24), torch.float32, "cuda")
    dw = GuardedBuffer((4, 24, 16), torch.float32, "cuda")
    grouped_gemm.gmm(a, b, **sizes, out=y.tensor)
    grouped_gemm.gmm_dgrad(dy, b, **sizes, out=dx.tensor)
    grouped_gemm.gmm_wgrad(a, dy, **sizes, out=dw.tensor)
    torch.cuda.synchronize()
    for name, buffer in {"y": y, "dx": dx, "dw": dw}.items():
        buffer.assert_guards_intact()
        assert buffer.tensor.isfinite().all(), f"{name} has elements that were not written"
    # every operand is 1, so a row is in a group (K or N products) or zero; a matrix sums <= T rows
    assert ((y.tensor == 0) | (y.tensor == 24)).all()
    assert ((dx.tensor == 0) | (dx.tensor == 16)).all()
    assert ((dw.tensor >= 0) & (dw.tensor <= 21)).all()


@pytest.mark.parametrize("call", ["ops.gmm", "gmm", "gmm_dgrad", "gmm_wgrad"])
@pytest.mark.parametrize("given", ["both", "neither"])
def test_exactly_one_of_batch_sizes_and_offs_is_needed(call, given):
    owner = grouped_gemm.ops if call.startswith("ops.") else grouped_gemm
    function = getattr(owner, call.removeprefix("ops."))
    a, b = random_operands(ODD_SIZES, 16, 16, torch.float32, "cpu")
    right = a if call == "gmm_wgrad" else b
    sizes, offs = torch.tensor(ODD_SIZES), torch.tensor([3, 3, 20, 21])
    arguments = (sizes, offs) if given == "both" else (None, None)
    with pytest.raises(ERRORS, match="(?s)batch_sizes.*offs|offs.*batch_sizes"):
        function(a, right, arguments[0], offs=arguments[1])


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_sizes_changed_between_forward_and_backward_are_an_error_or_have_no_effect(device, where):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device, requires_grad=True)
    sizes = torch.tensor(ODD_SIZES, device="cpu" if where == "cpu" else device)
    y = grouped_gemm.gmm(a, b, sizes)
    dy = torch.randn(y.shape).to(device)
    sizes.copy_(torch.tensor([17, 3, 0, 1]))
    try:
        y.backward(dy)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return
    assert_gemm_close(a.grad, reference.gmm_dgrad, dy, b, ODD_SIZES, 16)
    assert_gemm_close(b.grad, reference.gmm_wgrad, a, dy, ODD_SIZES, wgrad_depth(ODD_SIZES))


def test_a_weight_gradient_of_an_empty_group_is_exact_zeros_whatever_the_memory_held(device):
    for _ in range(4):
        a, b = random_operands([0, 9, 0], 24, 16, torch.bfloat16, device, requires_grad=True)
        grouped_gemm.gmm(a, b, torch.tensor([0, 9, 0], device=device)).sum().backward()
        assert_all_zero(b.grad[0]), assert_all_zero(b.grad[2])


@pytest.mark.parametrize("how", ["numpy", "data"])
@pytest.mark.parametrize("call", ["gmm", "gmm_wgrad", "gmm_main_grad"])
def test_sizes_on_the_cpu_changed_behind_autograds_back_have_no_effect(device, call, how):
    a, b = random_operands(ODD_SIZES, 24, 16, torch.float32, device, requires_grad=True)
    b.main_grad = torch.zeros_like(b)
    right = torch.randn(21, 16).to(device).requires_grad_() if call == "gmm_wgrad" else b
    gradients = []
    for changed in (False, True):
        sizes = torch.tensor(ODD_SIZES)
        y = getattr(grouped_gemm, call)(a, right, sizes)
        if changed:
            memory = sizes.numpy() if how == "numpy" else sizes.data
            memory[:] = torch.tensor([17, 3, 0, 1])
        (grad,) = torch.autograd.grad(y.square().sum(), a)
        gradients.append(grad)
    assert torch.equal(*gradients)
