"""The suite's own tools see what they must see: a check that cannot fail is worth nothing."""

import os
import platform

import pytest
import torch
from support import reference
from support.buffers import LAYOUTS, GuardedBuffer, fenced
from support.compare import assert_close_elementwise, assert_gemm_close, assert_same_bits
from support.shapes import GROUPS, random_operands

GLIBC = platform.libc_ver()[0] == "glibc"
# Newer glibc hands recently freed small blocks out again as they are, unless told otherwise; the
# Makefile's test targets tell it.
CACHES_SMALL_BLOCKS = "tcache_count=0" not in os.environ.get("GLIBC_TUNABLES", "")


@pytest.mark.skipif(not GLIBC, reason="only glibc's malloc can be told to fill memory")
@pytest.mark.parametrize("count", [100, 4000, 100_000, 2_000_000])
def test_fresh_cpu_memory_is_nan(count):
    if count == 100 and CACHES_SMALL_BLOCKS:
        pytest.skip("GLIBC_TUNABLES leaves malloc's cache of small blocks on")
    del_me = torch.zeros(count)
    del del_me
    assert torch.empty_strided((count,), (1,)).isnan().all()


@pytest.mark.cuda
@pytest.mark.parametrize("count", [100, 4000, 100_000, 2_000_000])
def test_fresh_cuda_memory_is_nan(count):
    assert torch.empty(count, device="cuda").isnan().all()


def test_references_are_computed_by_one_thread():
    assert torch.get_num_threads() == 1


def test_the_gmm_reference_is_a_matrix_product_per_row():
    sizes = [2, 0, 3]
    a, b = random_operands(sizes, 4, 6, torch.float64, "cpu", extra_rows=1)
    expected = torch.stack([*(a[:2] @ b[0]), *(a[2:5] @ b[2]), torch.zeros(6).double()])
    assert torch.allclose(reference.gmm(a, b, sizes), expected, rtol=1e-14, atol=1e-14)


def test_the_gradient_references_are_autograds():
    sizes = GROUPS["every_second_empty"]
    a, b = random_operands(sizes, 4, 6, torch.float64, "cpu", trans_b=True, requires_grad=True)
    dy = torch.randn(sum(sizes), 6, dtype=torch.float64)
    ends = torch.cumsum(torch.tensor(sizes), 0).tolist()
    y = torch.cat([a[e - s : e] @ w.T for w, s, e in zip(b, sizes, ends, strict=True)])
    da, db = torch.autograd.grad(y, (a, b), dy)
    assert torch.allclose(reference.gmm_dgrad(dy, b, sizes, True), da)
    assert torch.allclose(reference.gmm_wgrad(a, dy, sizes, True), db)


def test_the_routing_reference_knows_the_worked_example():
    mapping, source = reference.row_map(torch.tensor([[1, 2], [0, 1], [0, 2], [1, 2]]))
    assert mapping == [2, 0, 1, 4, 5, 3, 6, 7]
    assert source == [1, 2, 0, 1, 3, 0, 2, 3]
    mapping, source = reference.row_map(torch.tensor([[1], [-1], [0]]), num_out_tokens=1)
    assert mapping == [-1, -1, 0] and source == [2]


def test_the_sinkhorn_reference_is_the_formula_written_out():
    cost = torch.randn(5, 3, dtype=torch.float64)
    c, d0, d1 = torch.exp(cost), torch.ones(5).double(), torch.ones(3).double()
    for _ in range(4):
        d0 = 1 / (5 * ((c * d1).sum(1) + 1e-8))
        d1 = 1 / (3 * ((c * d0[:, None]).sum(0) + 1e-8))
    result, _ = reference.sinkhorn(cost, 4)
    assert torch.allclose(result, d1 * c * d0[:, None], rtol=1e-12, atol=0)


def test_the_unpermute_references_are_autograds():
    rows = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    probs = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)
    mapping = [0, 5, -1, 2, 3, 1, 4, -1]
    y = torch.zeros(4, 4, dtype=torch.float64)
    for entry, row in enumerate(mapping):
        if row >= 0:
            y = y.index_add(
                0, torch.tensor([entry % 4]), (probs[entry % 4, entry // 4] * rows[row])[None]
            )
    assert torch.allclose(reference.unpermute(rows, mapping, 4, 2, probs), y)
    grad = torch.randn(4, 4, dtype=torch.float64)
    expected = torch.autograd.grad(y, (rows, probs), grad)
    actual = reference.unpermute_grads(grad, rows, mapping, 4, 2, probs)
    assert all(torch.allclose(x, y) for x, y in zip(actual, expected, strict=True))


@pytest.mark.parametrize("damage", ["one element", "nan", "a row", "the sign"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gemm_bound_rejects_what_is_wrong(dtype, damage):
    sizes = [3, 0, 17, 1]
    a, b = random_operands(sizes, 64, 16, dtype, "cpu")
    good = reference.gmm(a, b, sizes).to(dtype)
    assert_gemm_close(good, reference.gmm, a, b, sizes, 64)
    bad = good.clone()
    if damage == "one element":
        bad[20, 3] += 0.05 * a[20].abs().max()
    elif damage == "nan":
        bad[0, 0] = float("nan")
    elif damage == "a row":
        bad[4] = bad[5]
    else:
        bad[20] = -bad[20]
    with pytest.raises(AssertionError):
        assert_gemm_close(bad, reference.gmm, a, b, sizes, 64)


def test_the_gemm_bound_rejects_sums_in_half_precision():
    a, b = torch.full((1, 4096), 1.0).bfloat16(), torch.full((1, 4096, 1), 1.001).bfloat16()
    total = torch.zeros((), dtype=torch.bfloat16)
    for value in a[0] * b[0, :, 0]:
        total += value
    with pytest.raises(AssertionError):
        assert_gemm_close(total.reshape(1, 1), reference.gmm, a, b, [1], 4096)


def test_a_shape_that_would_broadcast_is_not_close():
    with pytest.raises(AssertionError):
        assert_close_elementwise(torch.zeros(3, 1), torch.zeros(3, 4).double(), 1)
    with pytest.raises(AssertionError):
        assert_same_bits(torch.zeros(2), torch.tensor([0.0, -0.0]))


@pytest.mark.parametrize("position", ["before", "behind"])
def test_guards_see_a_write_beside_the_buffer(device, position):
    buffer = GuardedBuffer((3, 5), torch.bfloat16, device, offset_elements=1)
    buffer.tensor.fill_(1)
    buffer.assert_guards_intact()
    buffer._storage[buffer._begin - 1 if position == "before" else buffer._end] = 0
    with pytest.raises(AssertionError):
        buffer.assert_guards_intact()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_the_values_and_are_what_they_say(layout):
    x = torch.randn(5, 7)
    arranged = LAYOUTS[layout](x)
    assert torch.equal(arranged, x) and torch.equal(fenced(x), x)
    assert not arranged.is_contiguous() or arranged.data_ptr() % 16 != 0
