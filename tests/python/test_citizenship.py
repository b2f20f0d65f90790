"""Good manners in PyTorch: compile, export, autocast, checkpointing, inference mode, opcheck."""

import functools
import pathlib
import shutil

import grouped_gemm
import pytest
import torch
from grouped_gemm import ops
from support import reference
from support.compare import assert_gemm_close, assert_same_bits, wgrad_depth
from support.shapes import random_activations, random_indices, random_operands

SIZES = [3, 0, 17, 1]
OFFS = [3, 3, 20, 21]
RAW = torch.ops.grouped_gemm
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
BACKENDS = ["aot_eager", pytest.param("inductor", marks=needs_compiler)]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def raw_calls(device):
    """Raw operator, and what is special about the call -> arguments."""
    a, b = random_operands(SIZES, 8, 6, torch.float32, device)
    dy = torch.randn(21, 6, device=device)
    sizes = torch.tensor(SIZES, device=device)
    offs = torch.tensor(OFFS, dtype=torch.int32, device=device)
    x = random_activations(7, 8, torch.float32, device)
    indices = random_indices(7, 2, 4, device)
    rows, row_id_map = RAW._permute(x, indices, 0)
    probs = torch.rand(7, 2, device=device)
    grad = torch.randn(7, 8, device=device)
    y, dw = torch.zeros(21, 6, device=device), torch.zeros(4, 8, 6, device=device)
    return {
        "_gmm": (a, b, sizes, False, False, None),
        "_gmm offs trans_b": (a, b.mT.contiguous(), offs, True, True, None),
        "_gmm out_dtype": (a.half(), b.half(), sizes, False, False, torch.float32),
        "_gmm_out": (a, b, sizes, False, False, y),
        "_gmm_wgrad": (a, dy, sizes, False, False, None),
        "_gmm_wgrad offs trans_b": (a.half(), dy.half(), offs, True, True, torch.float32),
        "_gmm_wgrad_out": (a, dy, sizes, False, False, dw, True),
        "_permute": (x, indices, 0),
        "_permute num_out_tokens": (x.bfloat16(), indices[:, 0].int(), 5),
        "_moe_permute": (x, indices, 4),
        "_moe_permute probs": (x.bfloat16(), indices[:, 0], 4, probs[:, 0].contiguous()),
        "_moe_permute scales padded": (x, indices, 4, None, torch.rand(7, 3).to(device), 16),
        "_moe_permute capacity": (x, indices, 4, probs, None, 16, 3, True),
        "_permute_probs_bwd": (torch.rand(14, device=device), row_id_map.view(2, 7)),
        "_unpermute": (rows, row_id_map, probs, 2),
        "_unpermute residual": (rows, row_id_map, probs, 2, grad),
        "_unpermute no probs": (rows.half(), row_id_map.long(), None, 2),
        "_unpermute_bwd": (grad, rows, row_id_map, probs, 2, 14, True),
        "_unpermute_bwd only probs": (grad, rows, row_id_map, probs, 2, 14, False),
        "_unpermute_bwd only x": (grad, None, row_id_map, probs, 2, 14, True),
        "_routing_map_to_indices": (torch.rand(7, 5).to(device) < 0.4, 3),
        "_sort_chunks": (a, sizes, torch.tensor([2, 0, 3, 1], device=device), a[:, 0].clone()),
        "_sinkhorn": (torch.randn(9, 4).to(device), 1e-4, 50),
        **route_calls(device),
    }


def route_calls(device):
    logits, bias = torch.randn(9, 8).to(device), torch.randn(8).to(device)
    v3 = (3, True, False, True, 4, 2, 2, 2.5, 3, True)
    probs, indices, counts, score_sums, z_sums, row_id_map, offs = RAW._route(
        logits, bias, *v3, True, 16
    )
    by_map = (torch.randn(9, 4).to(device), row_id_map, counts.sum(0, dtype=torch.int32), offs)
    grads = (torch.ones_like(probs), torch.ones_like(score_sums), torch.ones_like(z_sums))
    plain = (3, False, False, False, 1.0, 3)
    return {
        "_route": (logits, None, 2, False, True, False, 1, 1, 2, 1.0, 1, False),
        "_route sums groups bias": (logits.bfloat16(), bias, *v3),
        "_route row map": (logits, bias, *v3, True, 16),
        "_permute_by_map": (*by_map, None, None, 16),
        "_permute_by_map probs scales": (*by_map, probs, torch.rand(9, 3).to(device), 16),
        "_route_bwd": (logits, indices, probs, *grads, 3, True, False, True, 2.5, 3),
        "_route_bwd only probs": (logits, indices, probs, grads[0], None, None, *plain),
        "_route_bwd only sums": (logits, indices, None, None, *grads[1:], *plain),
    }


RAW_CALLS = list(raw_calls("cpu"))


@pytest.mark.parametrize("call", RAW_CALLS)
def test_opcheck_finds_nothing_wrong(device, call):
    operator = getattr(RAW, call.split()[0]).default
    torch.library.opcheck(operator, raw_calls(device)[call])


@pytest.mark.parametrize("call", RAW_CALLS)
def test_fakes_tell_the_strides_of_results_of_transposed_operands(device, call):
    operator = getattr(RAW, call.split()[0]).default
    arguments = [
        t.mT.contiguous().mT if isinstance(t, torch.Tensor) and t.dim() > 1 else t
        for t in raw_calls(device)[call]
    ]
    torch.library.opcheck(operator, tuple(arguments), test_utils="test_faketensor")


@pytest.mark.parametrize("call", RAW_CALLS)
def test_the_raw_operators_are_not_public(call):
    """They have no gradient. The public functions have; nobody meets these by accident."""
    name = call.split()[0]
    assert name.startswith("_") and not hasattr(grouped_gemm, name)


def model(x, indices, probs, w1, w2, sizes):
    """A whole expert layer on public functions, sizes on the device."""
    permuted, row_id_map = grouped_gemm.permute(x, indices)
    hidden = torch.nn.functional.silu(grouped_gemm.gmm(permuted, w1, sizes))
    return grouped_gemm.unpermute(grouped_gemm.gmm(hidden, w2, sizes), row_id_map, probs)


def native_model(x, indices, probs, w1, w2):
    routed = grouped_gemm.moe_permute(x, indices, num_experts=w1.shape[0])
    hidden = torch.nn.functional.silu(grouped_gemm.gmm(routed.permuted, w1, offs=routed.offs))
    out = grouped_gemm.grouped_mm(hidden, w2, offs=routed.offs)
    return grouped_gemm.moe_unpermute(out, routed.row_id_map, probs)


def model_inputs(device, dtype=torch.float32):
    indices = random_indices(30, 2, 4, device)
    x = torch.randn(30, 16).to(dtype).to(device).requires_grad_()
    probs = torch.rand(30, 2).to(device).requires_grad_()
    w1 = torch.randn(4, 16, 24).to(dtype).to(device).requires_grad_()
    w2 = torch.randn(4, 24, 16).to(dtype).to(device).requires_grad_()
    return x, indices, probs, w1, w2, torch.bincount(indices.flatten(), minlength=4)


def run_with_gradients(function, inputs):
    wanted = [t for t in inputs if t.requires_grad]
    y = function(*inputs)
    return (y, *torch.autograd.grad(y.square().sum(), wanted))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", [model, native_model], ids=["drop-in", "native"])
def test_compiled_in_one_graph_forward_and_backward_equal_eager(device, which, backend):
    inputs = model_inputs(device)
    inputs = inputs if which is model else inputs[:5]
    compiled = torch.compile(which, fullgraph=True, backend=backend)
    # Eager is no exact reference: Inductor fuses the activation and rounds it otherwise, and the
    # loss squares y, so gradients of about 30 differ by a few 1e-4 (seen on an H100).
    rtol = 1e-4 if backend == "inductor" else 1e-5
    for actual, expected in zip(
        run_with_gradients(compiled, inputs), run_with_gradients(which, inputs), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-5)


def test_compiled_functions_take_sizes_on_the_cpu_too(device):
    inputs = list(model_inputs(device))
    inputs[5] = inputs[5].cpu()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        run_with_gradients(compiled, inputs), run_with_gradients(model, inputs), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_function_serves_other_numbers_of_tokens(device):
    compiled = torch.compile(native_model, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens in (30, 8, 51):
        x, _, _, w1, w2, _ = model_inputs(device)
        x = torch.randn(tokens, 16, device=device)
        indices, probs = random_indices(tokens, 2, 4, device), torch.rand(tokens, 2, device=device)
        expected = native_model(x, indices, probs, w1, w2)
        actual = compiled(x, indices, probs, w1, w2)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("accumulate", [False, True])
def test_writing_into_out_compiles(device, accumulate):
    a, _ = random_operands(SIZES, 8, 6, torch.bfloat16, device)
    dy = torch.randn(21, 6).bfloat16().to(device)
    sizes = torch.tensor(SIZES, device=device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(a, dy, main_grad):
        grouped_gemm.gmm_wgrad(a, dy, sizes, out=main_grad, accumulate=accumulate)
        return main_grad * 2

    main_grad = torch.ones(4, 8, 6, device=device)
    doubled = function(a, dy, main_grad)
    previous = torch.ones(4, 8, 6) if accumulate else None
    depth = wgrad_depth(SIZES)
    assert_gemm_close(main_grad, reference.gmm_wgrad, a, dy, SIZES, depth, previous=previous)
    assert_same_bits(doubled, main_grad * 2)


def test_sinkhorn_compiles(device):
    cost = torch.randn(33, 5).to(device)
    compiled = torch.compile(grouped_gemm.sinkhorn, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(cost), grouped_gemm.sinkhorn(cost))


@pytest.mark.parametrize("which", [model, native_model], ids=["drop-in", "native"])
def test_export_gives_the_same_result(device, which):
    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return which(*inputs)

    inputs = tuple(t.detach() for t in model_inputs(device))
    inputs = inputs if which is model else inputs[:5]
    exported = torch.export.export(Module(), inputs)
    assert_same_bits(exported.module()(*inputs), which(*inputs))


@pytest.mark.parametrize("which", [model, native_model], ids=["drop-in", "native"])
def test_inference_mode(device, which):
    inputs = model_inputs(device)
    inputs = inputs if which is model else inputs[:5]
    expected = which(*inputs)
    with torch.inference_mode():
        y = which(*inputs)
    assert y.is_inference() and not y.requires_grad
    assert_same_bits(y, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(device, use_reentrant):
    inputs = model_inputs(device)
    checkpointed = functools.partial(
        torch.utils.checkpoint.checkpoint, model, use_reentrant=use_reentrant
    )
    wanted = [t for t in inputs if t.requires_grad]
    gradients = []
    for function in (checkpointed, model):
        y = function(*inputs)
        y.square().sum().backward()
        gradients.append([y, *(t.grad.clone() for t in wanted)])
        for t in wanted:
            t.grad = None
    for actual, expected in zip(*gradients, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("call", [ops.gmm, ops.GroupedGemm.apply], ids=["gmm", "apply"])
def test_autocast_casts_operands_and_gradients_come_back_in_their_own_dtype(device, call, dtype):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device, requires_grad=True)
    with torch.autocast(device.type, dtype=dtype):
        y = call(a, b, torch.tensor(SIZES, device=device))
    assert y.dtype == dtype
    low_a, low_b = a.detach().to(dtype), b.detach().to(dtype)
    assert_gemm_close(y, reference.gmm, low_a, low_b, SIZES, 24)
    dy = torch.randn(y.shape).to(dtype).to(device)
    y.backward(dy)
    assert a.grad.dtype == torch.float32 and b.grad.dtype == torch.float32
    assert_gemm_close(a.grad.to(dtype), reference.gmm_dgrad, dy, low_b, SIZES, 16)
    depth = wgrad_depth(SIZES)
    assert_gemm_close(b.grad.to(dtype), reference.gmm_wgrad, low_a, dy, SIZES, depth)


def test_autocast_compiles(device):
    inputs = model_inputs(device)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast(device.type, dtype=torch.bfloat16):
        actual, expected = run_with_gradients(compiled, inputs), run_with_gradients(model, inputs)
    for left, right in zip(actual, expected, strict=True):
        assert left.dtype == right.dtype
        torch.testing.assert_close(left, right, rtol=2e-2, atol=2e-1)


def test_autocast_leaves_float64_alone():
    a, b = random_operands(SIZES, 24, 16, torch.float64, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.gmm(a, b, torch.tensor(SIZES)).dtype == torch.float64


DOUBLE_BACKWARD = {
    "moe_route": lambda x, d: grouped_gemm.moe_route(x, 2).probs,
    "gmm": lambda x, d: ops.gmm(x, x.new_ones(1, 8, 8).requires_grad_(), torch.tensor([6])),
    "permute": lambda x, d: ops.permute(x, random_indices(6, 2, 3, d))[0],
    "unpermute": lambda x, d: ops.unpermute(
        x, torch.arange(6, dtype=torch.int32, device=d), torch.ones(3, 2).to(d).requires_grad_()
    ),
    "moe_permute": lambda x, d: (
        grouped_gemm.moe_permute(x, random_indices(6, 2, 3, d), num_experts=3).permuted
    ),
}


@pytest.mark.parametrize("name", DOUBLE_BACKWARD)
def test_a_second_derivative_is_a_clear_error(device, name):
    x = torch.randn(6, 8, device=device, requires_grad=True)
    y = DOUBLE_BACKWARD[name](x, device)
    with pytest.raises(RuntimeError, match="(?i)once_differentiable|twice|double backward|second"):
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        grad.sum().backward()


def test_a_weight_may_be_a_tensor_subclass_parameter(device):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    parameter = torch.nn.Parameter(b)
    ops.gmm(a, parameter, torch.tensor(SIZES)).sum().backward()
    assert parameter.grad.shape == parameter.shape


def test_gradients_flow_through_hooks_and_accumulate_over_steps(device):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device, requires_grad=True)
    for _ in range(2):
        ops.gmm(a, b, torch.tensor(SIZES)).sum().backward()
    dy = torch.ones(21, 16)
    expected = 2 * reference.gmm_wgrad(a, dy, SIZES)
    assert (b.grad.cpu().double() - expected).abs().max() <= 1e-4


def test_the_package_is_typed_and_documented():
    package = pathlib.Path(grouped_gemm.__file__).parent
    assert (package / "py.typed").exists()
    for function in (
        grouped_gemm.gmm,
        grouped_gemm.gmm_dgrad,
        grouped_gemm.gmm_wgrad,
        grouped_gemm.grouped_mm,
        grouped_gemm.permute,
        grouped_gemm.unpermute,
        grouped_gemm.moe_permute,
        grouped_gemm.moe_unpermute,
        grouped_gemm.sinkhorn,
    ):
        assert function.__doc__ and "[" in function.__doc__, f"{function.__name__}: no shapes"
        assert function.__annotations__.get("return") is not None, function.__name__


def test_the_docs_say_that_pytorch_cannot_add_float8_gradients():
    functions = ("permute", "unpermute", "moe_permute", "moe_unpermute")
    docs = [getattr(grouped_gemm, name).__doc__ for name in functions]
    about = [d.lower() for d in docs if "fp8" in d.lower() or "float8" in d.lower()]
    assert any("gradient" in d for d in about)
