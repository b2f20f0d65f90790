"""Tensors beyond 2^31 elements: every offset is 64 bits wide. Tens of GB, so marked `large`.

Values are small integers chosen by row, so results are exact and checked on the device by slices.
"""

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops

pytestmark = pytest.mark.large

LIMIT = 2**31
GB = 2**30


def need_memory(device, gigabytes):
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
    else:
        try:
            with open("/proc/meminfo") as file:
                facts = dict(line.split(":") for line in file)
        except OSError:
            pytest.skip("how much memory is free is not known here")
        free = int(facts["MemAvailable"].split()[0]) * 1024
    if free < gigabytes * GB:
        pytest.skip(f"needs {gigabytes} GB of free {device.type} memory")


def row_values(rows, device):
    """A value for each row that neighbours, and rows 2^16 or 2^32 bytes away, do not share."""
    return (torch.arange(rows, device=device) * 2654435761 % 15 - 7).float()


def test_permute_and_unpermute_beyond_2_31_elements(device):
    hidden = 4096
    tokens = LIMIT // hidden + 3
    need_memory(device, 10)
    values = row_values(tokens, device)
    x = values.to(torch.float8_e5m2)[:, None].expand(tokens, hidden).contiguous()
    assert x.numel() > LIMIT
    indices = torch.randint(0, 8, (tokens, 1)).to(device)
    permuted, row_id_map = ops.permute(x, indices)
    order = torch.sort(indices[:, 0], stable=True).indices
    assert torch.equal(row_id_map[order].long(), torch.arange(tokens, device=device))
    for column in (0, 1, hidden - 1):
        assert torch.equal(permuted[:, column].float(), values[order])
    del x
    y = ops.unpermute(permuted, row_id_map, torch.ones(tokens, 1, device=device))
    for column in (0, 1, hidden - 1):
        assert torch.equal(y[:, column].float(), values)


@pytest.mark.cuda
def test_permute_backward_and_prob_gradients_beyond_2_31_elements():
    device = torch.device("cuda")
    hidden = 2048
    tokens = LIMIT // hidden // 2 + 3
    need_memory(device, 30)
    values = row_values(2 * tokens, device)
    rows = values.bfloat16()[:, None].expand(-1, hidden).contiguous().requires_grad_()
    assert rows.numel() > LIMIT
    row_id_map = torch.randperm(2 * tokens, device=device).int()
    probs = torch.ones(tokens, 2, device=device, requires_grad=True)
    y = ops.unpermute(rows, row_id_map, probs)
    table = row_id_map.reshape(2, tokens).long()
    assert torch.equal(y[:, -1].float(), values[table].sum(0))
    y.backward(torch.ones((), device=device).bfloat16().expand(y.shape))
    assert torch.equal(probs.grad, hidden * values[table].T)
    assert (rows.grad[:, 0] == 1).all() and (rows.grad[:, -1] == 1).all()


@pytest.mark.cuda
@pytest.mark.parametrize("trans_b", [False, True])
def test_gmm_with_a_result_beyond_2_31_elements(trans_b):
    device = torch.device("cuda")
    need_memory(device, 12)
    tokens, k, n = 65_539, 8, 32_776
    assert tokens * n > LIMIT
    a = row_values(tokens, device).bfloat16()[:, None].expand(tokens, k).contiguous()
    columns = row_values(n, device).bfloat16()
    b = torch.stack([columns.expand(k, n), -columns.expand(k, n)]).contiguous()
    b = b.mT.contiguous() if trans_b else b
    y = grouped_gemm.gmm(a, b, torch.tensor([5, tokens - 5], device=device), trans_b)
    for row in (0, 4, 5, 32_768, 65_535, 65_536, tokens - 1):
        sign = 1 if row < 5 else -1
        assert torch.equal(y[row].float(), sign * k * a[row, 0].float() * columns.float())


@pytest.mark.cuda
def test_gmm_with_rows_beyond_2_31_elements():
    device = torch.device("cuda")
    need_memory(device, 12)
    tokens, k, n = 65_539, 32_776, 8
    a = row_values(tokens, device).bfloat16()[:, None].expand(tokens, k).contiguous()
    b = torch.zeros(2, k, n, device=device, dtype=torch.bfloat16)
    b[0, -1], b[1, -1] = 1, 2
    sizes = torch.tensor([5, tokens - 5], device=device)
    y = grouped_gemm.gmm(a, b, sizes)
    scale = torch.full((tokens, 1), 2.0, device=device)
    scale[:5] = 1
    assert torch.equal(y.float(), (scale * a[:, -1:].float()).expand(tokens, n))
    dy = torch.zeros(tokens, n, device=device, dtype=torch.bfloat16)
    dy[-1] = 1
    dw = grouped_gemm.gmm_wgrad(a, dy, sizes)
    assert (dw[0] == 0).all()
    assert torch.equal(dw[1].float(), a[-1, 0].float().expand(k, n))


@pytest.mark.cuda
def test_weights_and_their_gradient_beyond_2_31_elements():
    device = torch.device("cuda")
    need_memory(device, 14)
    k, n = 32_776, 32_776
    a = row_values(6, device).bfloat16()[:, None].expand(6, k).contiguous()
    dy = row_values(n, device).bfloat16().expand(6, n).contiguous()
    sizes = torch.tensor([1, 5], device=device)
    dw = grouped_gemm.gmm_wgrad(a, dy, sizes)
    assert dw.numel() > LIMIT
    for row in (0, 1, 32_767, k - 1):
        assert torch.equal(dw[0, row].float(), a[0, 0].float() * dy[0].float())
        total = a[1:, 0].float().sum() * dy[0].float()
        assert torch.equal(dw[1, row].float(), total.bfloat16().float())
    y = grouped_gemm.gmm(a[:, :8].contiguous(), dw[:, :8], sizes)
    expected = (a[:, :8].double() @ dw[1, :8].double())[1:]
    assert ((y[1:].double() - expected).abs() <= 2**-7 * expected.abs()).all()


@pytest.mark.cuda
@pytest.mark.parametrize("return_sums", [False, True])
def test_routing_of_more_than_2_31_logits(return_sums):
    device = torch.device("cuda")
    experts, topk = 1024, 2
    tokens = LIMIT // experts + 5
    need_memory(device, 16)
    best = torch.arange(tokens, device=device) % (experts - 1)
    logits = torch.zeros(tokens, experts, dtype=torch.bfloat16, device=device)
    logits.scatter_(1, best[:, None], 2.0).scatter_(1, best[:, None] + 1, 1.0)
    logits.requires_grad_()
    routed = grouped_gemm.moe_route(logits, topk, return_sums=return_sums)
    assert torch.equal(routed.indices[:, 0].long(), best)
    assert torch.equal(routed.indices[:, 1].long(), best + 1)
    loss = routed.probs[:, 0].sum() + (routed.z_sums.sum() if return_sums else 0.0)
    (grad,) = torch.autograd.grad(loss, logits)
    every = [0, 1, tokens // 2, tokens - 2, tokens - 1]
    x = logits.detach()[every].double().requires_grad_()
    weights = x.gather(1, routed.indices[every].long()).softmax(-1)
    expected = weights[:, 0].sum() + (x.logsumexp(-1).square().sum() if return_sums else 0.0)
    (wanted,) = torch.autograd.grad(expected, x)
    assert ((grad[every].double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-6).all()
