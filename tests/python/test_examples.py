"""The worked example: what the documentation shows is what comes out, on every device."""

import grouped_gemm
import pytest
import torch

INDICES = [[1, 2], [0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("function", ["permute", "ops.permute", "moe_permute"])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_the_worked_example_of_permute(device, index_dtype, function):
    indices = torch.tensor(INDICES, dtype=index_dtype, device=device)
    x = torch.arange(4.0, device=device)[:, None].expand(4, 8)
    if function == "moe_permute":
        permuted, row_id_map, *_ = grouped_gemm.moe_permute(x, indices, num_experts=3)
    else:
        permuted, row_id_map = grouped_gemm.ops.permute(x, indices)
    assert row_id_map.flatten().tolist() == [2, 0, 1, 4, 5, 3, 6, 7]
    assert permuted[:, 0].tolist() == [1, 2, 0, 1, 3, 0, 2, 3]


def test_the_worked_example_there_and_back(device):
    indices = torch.tensor(INDICES, device=device)
    x = torch.arange(1.0, 5.0, device=device)[:, None].expand(4, 8)
    probs = torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [0.25, 0.5]], device=device)
    permuted, row_id_map = grouped_gemm.ops.permute(x, indices)
    y = grouped_gemm.ops.unpermute(permuted, row_id_map, probs)
    assert y[:, 0].tolist() == [1.0, 2.0, 3.0, 3.0]


def test_the_worked_example_of_gmm(device):
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], device=device)
    b = torch.stack([torch.eye(2), 10 * torch.eye(2)]).to(device)
    y = grouped_gemm.ops.gmm(a, b, torch.tensor([1, 2]))
    assert y.tolist() == [[1.0, 2.0], [30.0, 40.0], [50.0, 60.0]]


def test_an_expert_layer_as_existing_training_code_writes_it(device):
    """topk -> permute -> gmm -> gmm -> unpermute, gradients for everything, sizes by bincount."""
    torch.manual_seed(5)
    tokens, hidden, ffn, experts, top_k = 40, 16, 24, 6, 2
    x = torch.randn(tokens, hidden, device=device, requires_grad=True)
    router = torch.randn(hidden, experts, device=device, requires_grad=True)
    w1 = torch.randn(experts, hidden, ffn, device=device, requires_grad=True)
    w2 = torch.randn(experts, ffn, hidden, device=device, requires_grad=True)

    def ours():
        probs, indices = torch.topk(torch.softmax(x @ router, -1), top_k)
        sizes = torch.bincount(indices.flatten(), minlength=experts).cpu()
        permuted, row_id_map = grouped_gemm.ops.permute(x, indices)
        hidden_states = torch.relu(grouped_gemm.ops.gmm(permuted, w1, sizes))
        out = grouped_gemm.ops.gmm(hidden_states, w2, sizes)
        return grouped_gemm.ops.unpermute(out, row_id_map, probs)

    def plain():
        probs, indices = torch.topk(torch.softmax(x @ router, -1), top_k)
        picked1, picked2 = w1[indices].double(), w2[indices].double()
        states = torch.relu(torch.einsum("th,tkhf->tkf", x.double(), picked1))
        return torch.einsum("tk,tkf,tkfh->th", probs.double(), states, picked2)

    inputs = (x, router, w1, w2)
    weights = torch.randn(tokens, hidden, device=device)
    got, expected = ours(), plain()
    assert (got.double() - expected).abs().max() <= 2e-5 * expected.abs().max()
    got_grads = torch.autograd.grad((got * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), inputs)
    for actual, wanted in zip(got_grads, expected_grads, strict=True):
        assert (actual - wanted).abs().max() <= 2e-5 * wanted.abs().max()
