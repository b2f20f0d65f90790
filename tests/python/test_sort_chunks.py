"""sort_chunks: consecutive chunks of rows in another order."""

import grouped_gemm
import pytest
import torch
from support.buffers import LAYOUTS
from support.compare import assert_same_bits
from support.shapes import GEMM_DTYPES, PERMUTE_DTYPES, random_activations
from torch.autograd import gradcheck

SIZES = [4, 0, 1, 7, 3, 6]
ORDER = [5, 1, 3, 0, 4, 2]


def expected(x, sizes, order):
    chunks = x.split([*sizes, x.shape[0] - sum(sizes)])
    rows = torch.cat([chunks[i] for i in order])
    return torch.cat([rows, x.new_zeros(x.shape[0] - rows.shape[0], *x.shape[1:])])


def on(device, values, dtype=torch.int64):
    return torch.tensor(values, dtype=dtype, device=device)


@pytest.mark.small
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 7, 64])
def test_chunks_come_in_the_order_asked_for(device, hidden, dtype, layout):
    for num_rows in (21, 26):
        x = random_activations(num_rows, hidden, dtype, device)
        result = grouped_gemm.sort_chunks(LAYOUTS[layout](x), on(device, SIZES), on(device, ORDER))
        bytes_of = x.contiguous().view(torch.uint8).reshape(num_rows, -1)
        wanted = expected(bytes_of, SIZES, ORDER).reshape(num_rows, -1).view(dtype)
        assert_same_bits(result.output, wanted.reshape(num_rows, hidden))
        assert result.permuted_probs is None


@pytest.mark.small
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_probs_and_gradients_travel_with_their_rows(device, dtype, index_dtype):
    x = random_activations(26, 8, dtype, device).requires_grad_()
    probs = torch.rand(26).to(dtype).to(device).requires_grad_()
    sizes, order = on(device, SIZES, index_dtype), on(device, ORDER, index_dtype)
    y, permuted_probs = grouped_gemm.sort_chunks(x, sizes, order, probs=probs)
    assert_same_bits(permuted_probs, expected(probs.detach(), SIZES, ORDER))
    grads = [torch.randn(t.shape).to(dtype).to(device) for t in (y, permuted_probs)]
    torch.autograd.backward([y, permuted_probs], grads)
    place = expected(torch.arange(1, 27), SIZES, ORDER).tolist()  # row of y -> row of x, plus 1
    for leaf, grad in zip((x, probs), grads, strict=True):
        wanted = torch.zeros(leaf.shape, dtype=dtype)
        for row, source in enumerate(place):
            if source > 0:
                wanted[source - 1] = grad[row].cpu()
        assert_same_bits(leaf.grad, wanted)


def test_the_inverse_order_brings_the_rows_back(device):
    x = random_activations(21, 8, torch.bfloat16, device)
    sizes, order = on(device, SIZES), on(device, ORDER)
    y = grouped_gemm.sort_chunks(x, sizes, order).output
    assert_same_bits(grouped_gemm.sort_chunks(y, sizes[order], order.argsort()).output, x)


@pytest.mark.parametrize("num_chunks", [0, 1, 600, 5000])
def test_few_and_many_chunks(device, num_chunks):
    sizes = torch.randint(0, 5, (num_chunks,)).tolist()
    order = torch.randperm(num_chunks).tolist()
    x = random_activations(sum(sizes) + 2, 4, torch.float32, device)
    result = grouped_gemm.sort_chunks(x, on(device, sizes), on(device, order))
    wanted = expected(x, sizes, order) if num_chunks else torch.zeros_like(x)
    assert_same_bits(result.output, wanted)


def test_a_chunk_named_twice_counts_once_and_one_not_named_is_left_out(device):
    x = random_activations(21, 8, torch.float32, device).requires_grad_()
    y = grouped_gemm.sort_chunks(x, on(device, SIZES), on(device, [5, 5, 3, 0, 3, 2])).output
    assert_same_bits(y, expected(x.detach(), SIZES, [5, 3, 0, 2]))
    y.sum().backward()
    wanted = torch.ones(21, 8)
    wanted[12:15] = 0  # chunk 4
    assert_same_bits(x.grad, wanted)


@pytest.mark.small
def test_without_rows(device):
    x = torch.empty(0, 8, device=device)
    result = grouped_gemm.sort_chunks(x, on(device, [0, 0]), on(device, [1, 0]))
    assert result.output.shape == (0, 8)


@pytest.mark.cuda
def test_absurd_sizes_and_names_on_the_device_touch_nothing_else():
    x = random_activations(21, 8, torch.float32, "cuda")
    for sizes in ([-5, 2**40, 3], [2**62, 2**62, 2**62], [-1, -1, -1], [20, 20, 20]):
        for order in ([2, 1, 0], [-1, 2**40, 1], [3, 3, 3], [0, 0, 0]):
            y = grouped_gemm.sort_chunks(x, on("cuda", sizes), on("cuda", order)).output
            assert y.isfinite().all()


def test_bad_arguments_are_named(device):
    x = random_activations(21, 8, torch.float32, device)
    sizes, order = on(device, SIZES), on(device, ORDER)
    cases = [
        (lambda: grouped_gemm.sort_chunks(x, sizes, order[:4]), "sorted_index.*4.*6"),
        (lambda: grouped_gemm.sort_chunks(x, sizes.float(), order), "split_sizes.*float32"),
        (lambda: grouped_gemm.sort_chunks(x, sizes, order, probs=x), "probs.*21, 8"),
        (lambda: grouped_gemm.sort_chunks(x[0], sizes, order), "x got 1 dimensions"),
    ]
    if device.type == "cpu":
        cases += [
            (lambda: grouped_gemm.sort_chunks(x, sizes + 1, order), "split_sizes.*27.*21"),
            (lambda: grouped_gemm.sort_chunks(x, -sizes, order), "split_sizes.*-4"),
            (lambda: grouped_gemm.sort_chunks(x, sizes, order + 1), "sorted_index.*6"),
        ]
    for call, words in cases:
        with pytest.raises(RuntimeError, match="sort_chunks: .*" + words):
            call()


def test_numerical_gradients():
    x = torch.randn(26, 3, dtype=torch.float64, requires_grad=True)
    probs = torch.randn(26, dtype=torch.float64, requires_grad=True)
    sizes, order = torch.tensor(SIZES), torch.tensor(ORDER)
    assert gradcheck(
        lambda x, probs: tuple(grouped_gemm.sort_chunks(x, sizes, order, probs=probs)), (x, probs)
    )


def test_compiled_as_one_graph(device):
    sizes, order = on(device, SIZES), on(device, ORDER)

    def function(x):
        return grouped_gemm.sort_chunks(x.sin(), sizes, order).output

    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        x = torch.linspace(-1, 1, 26 * 8, device=device).view(26, 8).requires_grad_()
        y = call(x)
        y.square().sum().backward()
        results.append((y, x.grad))
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)
