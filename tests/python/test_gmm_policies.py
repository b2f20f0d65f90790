"""Every row of the grouped GEMM's menu of kernels, at sizes with several tiles each way.

Which row runs follows from the mean group size, the output and K (src/cuda/gemm/sm90/policy.h and
k_grouped_policy.h); the names of the parameters say what is meant on compute capability 9.0.
"""

import grouped_gemm
import pytest
import torch
from support import reference
from support.buffers import GuardedBuffer
from support.compare import assert_gemm_close, assert_same_bits
from support.shapes import random_operands

FEW_ROWS = [70, 0, 1, 64, 200, 129, 0, 300]  # short reductions: narrow tiles where they add
MANY_ROWS = [1100, 0, 2100]  # 1024 and more on average: sums added in L2
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=["deep", "wide"])
def tiles(request, device):
    """Problems as small as these take narrow tiles forward, mostly with deep pipelines, but wide
    ones where others want SMs."""
    if request.param == "wide" and device.type == "cuda":
        count = torch.cuda.get_device_properties(device).multi_processor_count
        grouped_gemm.set_num_sms(count - 1)
    yield request.param
    grouped_gemm.set_num_sms(None)


def depth_of(sizes):
    return torch.tensor(sizes, dtype=torch.float64).reshape(-1, 1, 1)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("features", [(200, 520), (72, 264)], ids=str)
@pytest.mark.parametrize("sizes", [FEW_ROWS, MANY_ROWS], ids=["narrow", "in_l2"])
@pytest.mark.parametrize("out_dtype", ["same", torch.float32], ids=str)
@pytest.mark.parametrize("accumulate", [False, True], ids=["store", "add"])
def test_weight_gradients(device, out_dtype, sizes, features, trans_b, accumulate):
    k, n = features
    dtype = HALVES[len(sizes) % 2]
    out_dtype = dtype if out_dtype == "same" else out_dtype
    a, b = random_operands(sizes, k, n, dtype, device, trans_b)
    dy = torch.randn(a.shape[0], n).to(dtype).to(device)
    buffer = GuardedBuffer(b.shape, out_dtype, device)
    buffer.tensor.copy_(torch.randn(b.shape) if accumulate else torch.full(b.shape, torch.nan))
    before = buffer.tensor.clone()
    batch_sizes = torch.tensor(sizes, device=device)

    def call(out):
        return grouped_gemm.gmm_wgrad(a, dy, batch_sizes, trans_b, out=out, accumulate=accumulate)

    dw = call(buffer.tensor)
    buffer.assert_guards_intact()
    previous = before if accumulate else None
    assert_gemm_close(
        dw, reference.gmm_wgrad, a, dy, sizes, depth_of(sizes), trans_b, previous=previous
    )
    assert_same_bits(call(before.clone()), dw, "the same call again")


@pytest.mark.parametrize("num_sms", [1, 2, 5])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("features", [(200, 520), (72, 264), (1024, 192)], ids=str)
@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("accumulate", [False, True], ids=["store", "add"])
def test_weight_gradients_of_many_tiles_a_block(
    device, accumulate, out_dtype, features, trans_b, num_sms
):
    """Tiles of which half the rows lie past the last one come between others in a block."""
    k, n = features
    a, b = random_operands(FEW_ROWS, k, n, torch.bfloat16, device, trans_b)
    dy = torch.randn(a.shape[0], n).bfloat16().to(device)
    out = torch.randn(b.shape).to(out_dtype).to(device)
    before = out.clone() if accumulate else None
    sizes = torch.tensor(FEW_ROWS, device=device)
    grouped_gemm.set_num_sms(num_sms)
    try:
        grouped_gemm.gmm_wgrad(a, dy, sizes, trans_b, out=out, accumulate=accumulate)
    finally:
        grouped_gemm.set_num_sms(None)
    assert_gemm_close(
        out, reference.gmm_wgrad, a, dy, FEW_ROWS, depth_of(FEW_ROWS), trans_b, previous=before
    )


@pytest.mark.parametrize("k", [8, 64, 72, 136, 200, 264, 520])
@pytest.mark.parametrize("trans_b", [False, True])
def test_reductions_shorter_and_longer_than_what_stores_hide_under(device, tiles, trans_b, k):
    sizes = [300, 0, 1, 129, 64, 17, 256]
    a, b = random_operands(sizes, k, 328, torch.bfloat16, device, trans_b, extra_rows=5)
    buffer = GuardedBuffer((a.shape[0], 328), torch.bfloat16, device)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes, device=device), trans_b, out=buffer.tensor)
    buffer.assert_guards_intact()
    assert_gemm_close(y, reference.gmm, a, b, sizes, k, trans_b)


@pytest.mark.parametrize("sizes", [[1, 1], [3, 0, 130], [16] * 9], ids=len)
def test_fewer_tiles_than_blocks(device, tiles, sizes):
    # No counters are there, nor cleared: what the allocator hands out is poisoned (conftest.py).
    a, b = random_operands(sizes, 128, 72, torch.bfloat16, device)
    for batch_sizes in (torch.tensor(sizes), torch.tensor(sizes, device=device)):
        for _ in range(2):
            y = grouped_gemm.gmm(a, b, batch_sizes)
            assert_gemm_close(y, reference.gmm, a, b, sizes, 128)


@pytest.mark.parametrize("accumulate", [False, True], ids=["store", "add"])
@pytest.mark.parametrize("sizes", [FEW_ROWS, MANY_ROWS], ids=["narrow", "in_l2"])
def test_nan_of_one_group_stays_there(device, sizes, accumulate):
    a, b = random_operands(sizes, 136, 264, torch.bfloat16, device)
    dy = torch.randn(a.shape[0], 264).bfloat16().to(device)
    batch_sizes = torch.tensor(sizes, device=device)

    def call():
        out = torch.ones(b.shape, device=device)
        return grouped_gemm.gmm_wgrad(a, dy, batch_sizes, out=out, accumulate=accumulate)

    clean = call()
    a[: sizes[0]] = torch.nan
    dy[: sizes[0]] = torch.inf
    dirty = call()
    assert dirty[0].isnan().all()
    assert_same_bits(dirty[1:], clean[1:], "the other groups")


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("n", [300, 132, 264])
@pytest.mark.parametrize("out_dtype", ["same", torch.float32], ids=str)
def test_small_groups_beside_large_ones(device, tiles, out_dtype, n, trans_b):
    sizes = [1, 300, 0, 144, 145, 2, 700, 16, 0, 257, 33, 143] + [5] * 30
    dtype = torch.bfloat16
    n = n if trans_b else n // 8 * 8
    a, b = random_operands(sizes, 72, n, dtype, device, trans_b, extra_rows=9)
    out = torch.full((a.shape[0], n), torch.nan, device=device)
    out = out.to(dtype if out_dtype == "same" else out_dtype)
    for form in (torch.int32, torch.int64):
        batch_sizes = torch.tensor(sizes, device=device, dtype=form)
        y = grouped_gemm.gmm(a, b, batch_sizes, trans_b, out=out)
        assert_gemm_close(y, reference.gmm, a, b, sizes, 72, trans_b)
        ends = batch_sizes.cumsum(0).to(form)
        again = grouped_gemm.gmm(a, b, offs=ends, trans_b=trans_b, out_dtype=out.dtype)
        assert_same_bits(again, y, "cumulative ends")


@pytest.mark.parametrize("sizes", [[1] * 64, [0] * 63 + [1000], [144] * 8, [145] * 8], ids=len)
def test_groups_all_of_one_class(device, tiles, sizes):
    a, b = random_operands(sizes, 64, 128, torch.bfloat16, device)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes, device=device))
    assert_gemm_close(y, reference.gmm, a, b, sizes, 64)


def test_thousands_of_groups_of_which_few_have_rows(device, tiles):
    sizes = [0] * 3000
    for at, rows in ((0, 3), (31, 1), (32, 200), (1777, 5), (2999, 2)):
        sizes[at] = rows
    a, b = random_operands(sizes, 16, 8, torch.bfloat16, device)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes, device=device))
    assert_gemm_close(y, reference.gmm, a, b, sizes, 16)


def test_tiles_of_one_length_over_a_long_reduction(device, tiles):
    sizes = [257, 0, 513]
    a, b = random_operands(sizes, 16448, 136, torch.bfloat16, device, trans_b=True, extra_rows=3)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes, device=device), True)
    assert_gemm_close(y, reference.gmm, a, b, sizes, 16448, True)


@pytest.mark.parametrize("rows", [1, 16, 127, 128, 129, 144, 200, 255, 256, 257, 500])
@pytest.mark.parametrize("n", [4, 68, 128, 196])
def test_float32_results_of_every_tile_length(device, tiles, rows, n):
    sizes = [rows, 3]
    a, b = random_operands(sizes, 64, n, torch.bfloat16, device, trans_b=True)
    buffer = GuardedBuffer((rows + 3, n), torch.float32, device)
    y = grouped_gemm.gmm(a, b, torch.tensor(sizes, device=device), True, out=buffer.tensor)
    buffer.assert_guards_intact()
    assert_gemm_close(y, reference.gmm, a, b, sizes, 64, True)
