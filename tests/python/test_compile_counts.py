"""torch.compile with numbers that change from call to call: one graph serves them all.

Tokens, rows, experts, slots and capacities are symbolic in the operators' schemas and fakes. Other
manners under torch.compile: test_citizenship.py.
"""

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops
from grouped_gemm.nn import MoE
from support.shapes import random_indices

COUNTS = (6, 9, 14)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def random(device, *shape):
    return torch.randn(shape).to(device).requires_grad_()


def slots(device, *shape):
    return random(device, *shape), random_indices(shape[0], 2, 4, device)


def rows_and_map(device, tokens, topk):
    row_id_map = torch.randperm(tokens * topk, dtype=torch.int32).to(device)
    return random(device, tokens * topk, 8), row_id_map, random(device, tokens, topk)


def through_experts(x, indices, probs, **options):
    routed = grouped_gemm.moe_permute(x, indices, num_experts=4, probs=probs, **options)
    rows = routed.permuted * routed.permuted_probs[:, None]
    return grouped_gemm.moe_unpermute(rows, routed.row_id_map)


def routed_by_map(x, logits):
    routed = grouped_gemm.moe_route(logits, 2, return_row_map=True, align_size=8)
    rows, row_id_map, *_ = grouped_gemm.moe_permute(x, routed.row_map)
    return grouped_gemm.moe_unpermute(rows, row_id_map, routed.probs)


def sinkhorn(x):
    return x * grouped_gemm.sinkhorn(x)


# name -> function, arguments of a count n, and the dimensions that n marks: (argument, dimension)
DYNAMIC = {
    "gmm, tokens": (
        ops.gmm,
        lambda d, n: (random(d, n, 8), random(d, 4, 8, 6), torch.tensor([1, 2, 0, 3])),
        [(0, 0)],
    ),
    "gmm, experts": (
        ops.gmm,
        lambda d, n: (random(d, 20, 8), random(d, n, 8, 6), torch.ones(n, dtype=torch.int64)),
        [(1, 0), (2, 0)],
    ),
    "permute, tokens": (ops.permute, lambda d, n: slots(d, n, 8), [(0, 0), (1, 0)]),
    "permute, topk": (
        ops.permute,
        lambda d, n: (random(d, 7, 8), random_indices(7, n, 20, d)),
        [(1, 1)],
    ),
    "unpermute, tokens": (
        ops.unpermute,
        lambda d, n: rows_and_map(d, n, 2),
        [(0, 0), (1, 0), (2, 0)],
    ),
    "unpermute, topk": (
        ops.unpermute,
        lambda d, n: rows_and_map(d, 3, n),
        [(0, 0), (1, 0), (2, 1)],
    ),
    "moe_permute, tokens": (
        lambda x, i, p: through_experts(x, i, p, align_size=8),
        lambda d, n: (*slots(d, n, 8), random(d, n, 2)),
        [(0, 0), (1, 0), (2, 0)],
    ),
    "routing map, experts": (
        lambda x, chosen: grouped_gemm.moe_permute(x, chosen).permuted,
        lambda d, n: (random(d, 7, 8), (torch.rand(7, n) < 0.4).to(d)),
        [(1, 1)],
    ),
    "moe_route, tokens": (
        routed_by_map,
        lambda d, n: (random(d, n, 8), random(d, n, 4)),
        [(0, 0), (1, 0)],
    ),
    "sinkhorn, tokens": (sinkhorn, lambda d, n: (random(d, n, 8),), [(0, 0)]),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_dimension_marked_dynamic_stays_symbolic_forward_and_backward(device, name):
    function, arguments_of, marks = DYNAMIC[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for n in COUNTS:
        arguments = arguments_of(device, n)
        for argument, dimension in marks:
            torch._dynamo.mark_dynamic(arguments[argument], dimension)
        with torch._dynamo.config.patch(error_on_recompile=n != COUNTS[0]):
            actual = compiled(*arguments)
        compare(actual, function(*arguments), arguments)


def compare(actual, expected, arguments):
    first = [y if isinstance(y, torch.Tensor) else y[0] for y in (actual, expected)]
    wanted = [t for t in arguments if isinstance(t, torch.Tensor) and t.requires_grad]
    grad = torch.randn_like(first[0])
    results = [(y, *torch.autograd.grad(y, wanted, grad)) for y in first]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


NUMBERS = {
    "permute, num_out_tokens": ops.permute,
    "moe_permute, capacity": lambda x, i, n: (
        grouped_gemm.moe_permute(x, i, num_experts=4, capacity=n).permuted
    ),
    "moe_permute, num_experts": lambda x, i, n: (
        grouped_gemm.moe_permute(x, i, num_experts=n).permuted
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_change_do_not_compile_again_and_again(device, name):
    compiled = torch.compile(NUMBERS[name], fullgraph=True, backend="aot_eager")
    for n in range(3, 20):  # more than Dynamo's limit of recompilations
        arguments = (*slots(device, 30, 8), n)
        compare(compiled(*arguments), NUMBERS[name](*arguments), arguments)


def test_num_out_tokens_may_be_read_from_a_tensor_within_the_graph(device):
    def kept_rows(x, indices, kept):
        return ops.permute(x, indices, kept.item())[0]

    compiled = torch.compile(kept_rows, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        for n in COUNTS:
            arguments = (*slots(device, 30, 8), torch.tensor(n, device=device))
            compare(compiled(*arguments), kept_rows(*arguments), arguments)


@pytest.mark.parametrize("per_sequence", [False, True])
def test_the_layer_serves_batches_of_any_size(device, per_sequence):
    layer = MoE(8, 16, 4, 2, aux_loss_coef=0.1, aux_loss_per_sequence=per_sequence).to(device)

    def loss(x):
        y, stats = layer(x, return_stats=True)
        return y.square().sum() + stats.aux_loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for n in range(2, 14):
        x = random(device, n, 3, 8)
        compare(compiled(x), loss(x), (x,))
