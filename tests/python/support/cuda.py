"""What the tests that need a GPU share: an expert layer, its twin on the CPU, a capture."""

import grouped_gemm
import torch

from support.shapes import random_indices

SIZES = [30, 0, 170, 1]  # rows of groups
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
