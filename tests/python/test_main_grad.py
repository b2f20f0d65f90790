"""Megatron's convention: weight gradients are added to ``main_grad`` by backward itself."""

import grouped_gemm
import pytest
import torch
from grouped_gemm.nn import MoE
from support.shapes import random_operands

SIZES = [3, 0, 17, 1]


def operands(device, dtype):
    a, b = random_operands(SIZES, 64, 16, dtype, device, requires_grad=True)
    return a, torch.nn.Parameter(b.detach()), torch.tensor(SIZES, device=device)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("main", [torch.float32, torch.bfloat16])
def test_backward_adds_to_main_grad_and_says_so(device, main, trans_b):
    a, weight, sizes = operands(device, torch.bfloat16)
    if trans_b:
        weight = torch.nn.Parameter(weight.detach().transpose(1, 2).contiguous())
    start = torch.randn(weight.shape).to(device, main)
    weight.main_grad, weight.grad_added_to_main_grad = start.clone(), False
    y = grouped_gemm.gmm_main_grad(a, weight, sizes, trans_b)
    dy = torch.randn(y.shape).to(device, y.dtype)
    y.backward(dy)
    expected = grouped_gemm.gmm_wgrad(
        a.detach(), dy, sizes, trans_b, out=start.clone(), accumulate=True
    )
    assert weight.grad_added_to_main_grad
    assert torch.equal(weight.main_grad, expected)
    a_grad = grouped_gemm.gmm_dgrad(dy, weight.detach(), sizes, trans_b)
    assert torch.equal(a.grad, a_grad)


def test_without_the_flag_no_gradient_is_left_behind(device):
    a, weight, sizes = operands(device, torch.float32)
    weight.main_grad = torch.zeros_like(weight)
    grouped_gemm.gmm_main_grad(a, weight, sizes).sum().backward()
    assert weight.grad is None
    assert weight.main_grad.abs().sum() > 0


def test_the_placeholder_is_zeros_where_asked(device):
    a, weight, sizes = operands(device, torch.float32)
    weight.main_grad, weight.grad_added_to_main_grad = torch.zeros_like(weight), False
    weight.zero_out_wgrad = True
    grouped_gemm.gmm_main_grad(a, weight, sizes).sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_frozen_weights_leave_main_grad_alone(device):
    a, weight, sizes = operands(device, torch.float32)
    weight.requires_grad_(False)
    weight.main_grad, weight.grad_added_to_main_grad = torch.zeros_like(weight), False
    grouped_gemm.gmm_main_grad(a, weight, sizes).sum().backward()
    assert not weight.grad_added_to_main_grad
    assert not weight.main_grad.any()
    assert a.grad is not None


def test_hooks_on_the_parameter_run(device):
    a, weight, sizes = operands(device, torch.float32)
    weight.main_grad, weight.grad_added_to_main_grad = torch.zeros_like(weight), False
    seen = []
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad_added_to_main_grad))
    grouped_gemm.gmm_main_grad(a, weight, sizes).sum().backward()
    assert seen == [True]


@pytest.mark.parametrize(
    "main_grad", [None, torch.zeros(1), torch.zeros(4, 64, 16, dtype=torch.float64)]
)
def test_a_wrong_main_grad_is_an_error_that_names_it(main_grad):
    a, weight, sizes = operands(torch.device("cpu"), torch.float32)
    weight.main_grad = main_grad
    with pytest.raises(ValueError, match=r"gmm_main_grad: weight got main_grad .*needs"):
        grouped_gemm.gmm_main_grad(a, weight, sizes)


def test_a_weight_changed_before_backward_is_an_error(device):
    a, weight, sizes = operands(device, torch.float32)
    weight.main_grad = torch.zeros_like(weight)
    y = grouped_gemm.gmm_main_grad(a, weight, sizes)
    with torch.no_grad():
        weight.add_(1.0)
    with pytest.raises(RuntimeError, match="gmm_main_grad: weight was changed in place"):
        y.sum().backward()


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_moe_follows_the_convention(device, activation):
    torch.manual_seed(0)
    layer = MoE(32, 48, num_experts=4, top_k=2, activation=activation).to(device)
    x = torch.randn(64, 32).to(device)
    layer(x).square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in layer.experts.named_parameters()}
    layer.zero_grad()
    for p in layer.experts.parameters():
        p.main_grad, p.grad_added_to_main_grad = torch.zeros_like(p), False
    for _ in range(2):  # two micro-batches
        layer(x).square().sum().backward()
    for name, p in layer.experts.named_parameters():
        assert p.grad_added_to_main_grad
        torch.testing.assert_close(p.main_grad, 2 * wanted[name])


@pytest.mark.parametrize("main", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_both_operands_are_cast_and_main_grad_keeps_its_dtype(
    device, weight_dtype, main
):
    a, weight, sizes = operands(device, torch.float32)
    weight = torch.nn.Parameter(weight.detach().to(weight_dtype))
    weight.main_grad = torch.zeros(weight.shape, dtype=main, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = grouped_gemm.gmm_main_grad(a, weight, sizes)
    dy = torch.randn(y.shape).to(device, y.dtype)
    y.backward(dy)
    low = a.detach().bfloat16()
    assert torch.equal(y, grouped_gemm.gmm(low, weight.detach().bfloat16(), sizes))
    expected = torch.zeros(weight.shape, dtype=main, device=device)
    grouped_gemm.gmm_wgrad(low, dy, sizes, out=expected, accumulate=True)
    assert torch.equal(weight.main_grad, expected)
    a_grad = grouped_gemm.gmm_dgrad(dy, weight.detach().bfloat16(), sizes)
    assert torch.equal(a.grad, a_grad.float())


def train_step(layer, x, loss):
    for p in layer.experts.parameters():
        p.main_grad, p.grad_added_to_main_grad = torch.zeros_like(p), False
    layer.zero_grad()
    loss(x).backward()
    assert all(p.grad_added_to_main_grad for p in layer.experts.parameters())
    return [p.main_grad for p in layer.experts.parameters()]


def test_moe_under_autocast_follows_the_convention(device):
    layer = MoE(32, 48, num_experts=4, top_k=2).to(device)
    x = torch.randn(64, 32).to(device)

    def loss(x):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return layer(x).float().square().sum()

    loss(x).backward()
    wanted = [p.grad.clone() for p in layer.experts.parameters()]
    for main_grad, expected in zip(train_step(layer, x, loss), wanted, strict=True):
        assert main_grad.dtype == torch.float32
        scale = expected.abs().max()
        torch.testing.assert_close(main_grad, expected, rtol=2e-2, atol=float(scale) * 1e-2)


def test_under_compile_the_graph_breaks_there_and_fullgraph_is_an_error_that_says_why(device):
    layer = MoE(32, 48, num_experts=4, top_k=2).to(device)
    x = torch.randn(64, 32).to(device)

    def loss(x):
        return layer(x).square().sum()

    wanted = train_step(layer, x, loss)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager")
    for main_grad, expected in zip(train_step(layer, x, compiled), wanted, strict=True):
        torch.testing.assert_close(main_grad, expected)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="gmm_main_grad changes attributes of the weight"):
        torch.compile(loss, backend="aot_eager", fullgraph=True)(x)
    torch._dynamo.reset()
