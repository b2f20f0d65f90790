"""DTensors are unwrapped locally: every function sees this rank's part, gradients are DTensors."""

import grouped_gemm
import pytest
import torch
from grouped_gemm import backend, ops
from grouped_gemm.nn import MoE
from support import reference
from support.compare import assert_gemm_close, assert_same_bits, wgrad_depth
from support.shapes import random_indices, random_operands

if not torch.distributed.is_available():
    pytest.skip("this torch has no distributed package", allow_module_level=True)

import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard

SIZES = [3, 0, 17, 1]
BATCH_SIZES = torch.tensor(SIZES)
OFFS = torch.tensor([3, 3, 20, 21], dtype=torch.int32)


@pytest.fixture
def wrap(device):
    """Makes a tensor rank 0's part of a DTensor over two ranks, of which one exists."""
    fake_pg = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    dist.init_process_group("fake", store=fake_pg.FakeStore(), rank=0, world_size=2)
    torch._dynamo.reset()

    def wrap(tensor, placement=None):
        mesh = dist.device_mesh.DeviceMesh(device.type, [0, 1])
        wrapped = DTensor.from_local(tensor.detach(), mesh, [placement or Shard(0)]).detach()
        return wrapped.requires_grad_(tensor.is_floating_point())

    yield wrap
    torch._dynamo.reset()
    dist.destroy_process_group()


def assert_weight_gradient(weight, a, dy):
    assert isinstance(weight.grad, DTensor) and weight.grad.shape == weight.shape
    depth = wgrad_depth(SIZES)
    assert_gemm_close(weight.grad.to_local(), reference.gmm_wgrad, a, dy, SIZES, depth)


PRODUCTS = {
    "gmm": lambda a, w: ops.gmm(a, w, BATCH_SIZES),
    "gmm of a local part": lambda a, w: ops.gmm(a, w.to_local(), BATCH_SIZES),
    "GroupedGemm.apply": lambda a, w: ops.GroupedGemm.apply(a, w, BATCH_SIZES, False),
    "grouped_mm": lambda a, w: grouped_gemm.grouped_mm(a, w, offs=OFFS.to(a.device)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_sharded_weight_trains(device, wrap, name):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    weight = wrap(b)
    y = PRODUCTS[name](a, weight)
    dy = torch.randn(y.shape).to(device)
    y.backward(dy)
    assert_gemm_close(y.detach(), reference.gmm, a, b, SIZES, 24)
    assert_weight_gradient(weight, a, dy)


@pytest.mark.parametrize("name", ["gmm", "grouped_mm"])
def test_a_sharded_weight_trains_under_compile(device, wrap, name):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    weight = wrap(b)
    y = torch.compile(PRODUCTS[name], fullgraph=True, backend="aot_eager")(a, weight)
    dy = torch.randn(y.shape).to(device)
    y.backward(dy)
    assert_weight_gradient(weight, a, dy)


def test_a_sharded_weight_takes_main_grad(device, wrap):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    for wrapped in (False, True):
        weight, main_grad = wrap(b), torch.zeros_like(b)
        weight.main_grad = wrap(main_grad).detach() if wrapped else main_grad
        weight.grad_added_to_main_grad = False
        y = grouped_gemm.gmm_main_grad(a, weight, BATCH_SIZES)
        dy = torch.randn(y.shape).to(device)
        y.backward(dy)
        assert weight.grad_added_to_main_grad
        assert_same_bits(main_grad, grouped_gemm.gmm_wgrad(a, dy, BATCH_SIZES))


def test_results_may_be_written_into_a_dtensor(device, wrap):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    dy = torch.randn(21, 16).to(device)
    for function, shape in (
        (lambda out: grouped_gemm.gmm(a, wrap(b).detach(), BATCH_SIZES, out=out), (21, 16)),
        (lambda out: backend.gmm(a, wrap(b), BATCH_SIZES, c=out), (21, 16)),
        (lambda out: grouped_gemm.gmm_wgrad(a, dy, BATCH_SIZES, out=out), (4, 24, 16)),
    ):
        memory = torch.full(shape, float("nan"), device=device)
        out = wrap(memory).detach()
        assert function(out) is out
        plain = torch.empty(shape, device=device)
        assert_same_bits(memory, function(plain))


def test_a_batched_product_takes_a_sharded_weight(device, wrap):
    a, b = torch.randn(4, 3, 24).to(device), torch.randn(4, 24, 16).to(device)
    y = grouped_gemm.grouped_mm(a, wrap(b))
    assert type(y) is torch.Tensor and y.requires_grad
    assert_same_bits(y.detach(), torch.bmm(a, b))


def test_rows_and_probs_may_be_dtensors(device, wrap):
    x, indices = torch.randn(7, 8).to(device), random_indices(7, 2, 4, device)
    probs = torch.rand(7, 2).to(device)
    permuted, row_id_map = ops.permute(x, indices)
    pairs = [
        (ops.permute(wrap(x), indices)[0], permuted),
        (ops.PermuteMoE_topK.apply(wrap(x), indices, None, 0)[0], permuted),
        (backend.permute(wrap(x), indices, 0, [], 0)[0], permuted),
        (grouped_gemm.moe_permute(wrap(x), indices, num_experts=4, probs=wrap(probs))[0], permuted),
        (
            ops.unpermute(wrap(permuted), row_id_map, wrap(probs)),
            ops.unpermute(permuted, row_id_map, probs),
        ),
        (
            grouped_gemm.moe_unpermute(
                wrap(permuted), row_id_map.view(2, 7), wrap(probs), residual=wrap(x)
            ),
            grouped_gemm.moe_unpermute(permuted, row_id_map.view(2, 7), probs, residual=x),
        ),
        (grouped_gemm.sinkhorn(wrap(x)), grouped_gemm.sinkhorn(x)),
        (grouped_gemm.moe_route(wrap(x), 2).probs, grouped_gemm.moe_route(x, 2).probs),
    ]
    for actual, expected in pairs:
        assert type(actual) is torch.Tensor
        assert_same_bits(actual.detach(), expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_layer_takes_dtensor_parameters(device, wrap, compiled):
    torch.manual_seed(0)
    plain, wrapped = (MoE(8, 16, num_experts=4, top_k=2).to(device) for _ in range(2))
    wrapped.load_state_dict(plain.state_dict())
    for module in wrapped.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, torch.nn.Parameter(wrap(parameter, Replicate())))
    x = torch.randn(9, 8).to(device)
    layer = torch.compile(wrapped, fullgraph=True, backend="aot_eager") if compiled else wrapped
    y, expected = layer(x), plain(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    y.sum().backward(), expected.sum().backward()
    for actual, reference_ in zip(wrapped.parameters(), plain.parameters(), strict=True):
        grad = actual.grad.to_local()
        torch.testing.assert_close(grad, reference_.grad, rtol=1e-5, atol=1e-5)
