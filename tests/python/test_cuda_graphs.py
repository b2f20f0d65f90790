"""Captured calls replay with other sizes, routings and values."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops
from support import reference
from support.compare import assert_gemm_close, assert_same_bits, wgrad_depth
from support.cuda import SIZES, assert_agree, capture, forward_backward, layer_inputs, on_the_cpu
from support.shapes import random_activations, random_indices, random_operands, size_arguments

pytestmark = pytest.mark.cuda

OTHER_SIZES = [[0, 0, 0, 201], [201, 0, 0, 0], [50, 50, 50, 51], [0, 0, 0, 0], [7, 100, 0, 3]]


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
