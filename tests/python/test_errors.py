"""Bad input gets a Python exception that names the operator, the argument, what it got and needs;
nothing is written, and nothing of the build's folders is in the text."""

import re

import grouped_gemm
import pytest
import torch
from grouped_gemm import backend, ops
from support.shapes import random_activations, random_indices

ERRORS = (ValueError, TypeError, RuntimeError)


def gmm_inputs(device):
    return {
        "a": torch.randn(21, 24, device=device),
        "b": torch.randn(4, 24, 16, device=device),
        "batch_sizes": torch.tensor([3, 0, 17, 1]),
    }


def wgrad_inputs(device):
    return {
        "a": torch.randn(21, 24, device=device),
        "dy": torch.randn(21, 16, device=device),
        "batch_sizes": torch.tensor([3, 0, 17, 1]),
    }


def dgrad_inputs(device):
    return {
        "dy": torch.randn(21, 16, device=device),
        "b": torch.randn(4, 24, 16, device=device),
        "batch_sizes": torch.tensor([3, 0, 17, 1]),
    }


def permute_inputs(device):
    return {
        "input_act": random_activations(7, 8, torch.float32, device),
        "indices": random_indices(7, 2, 4, device),
    }


def moe_permute_inputs(device):
    x = random_activations(7, 8, torch.float32, device)
    return {"x": x, "indices": random_indices(7, 2, 4, device), "num_experts": 4}


def unpermute_inputs(device):
    return {
        "input_act": random_activations(14, 8, torch.float32, device),
        "row_id_map": torch.arange(14, dtype=torch.int32, device=device),
        "probs": torch.rand(7, 2, device=device),
    }


def moe_unpermute_inputs(device):
    return {
        "x": random_activations(14, 8, torch.float32, device),
        "row_id_map": torch.arange(14, dtype=torch.int32, device=device).reshape(2, 7),
        "probs": torch.rand(7, 2, device=device),
    }


def sinkhorn_inputs(device):
    return {"cost": torch.randn(9, 4, device=device)}


INPUTS = {
    ops.gmm: gmm_inputs,
    grouped_gemm.gmm_dgrad: dgrad_inputs,
    grouped_gemm.gmm_wgrad: wgrad_inputs,
    ops.permute: permute_inputs,
    grouped_gemm.moe_permute: moe_permute_inputs,
    ops.unpermute: unpermute_inputs,
    grouped_gemm.moe_unpermute: moe_unpermute_inputs,
    grouped_gemm.sinkhorn: sinkhorn_inputs,
}

NO_FLOAT = r"\A(?!(?s:.*)float)"  # a need that would be refused as well is no help

# operator, argument made bad, how, and what the message must hold (regular expressions)
CASES = [
    (ops.gmm, "a", lambda t: t[0], [r"\b1\b"]),
    (ops.gmm, "a", lambda t: t[None], [r"\b3\b"]),
    (ops.gmm, "a", lambda t: t[:, :23], [r"\b23\b", r"\b24\b"]),
    (ops.gmm, "a", lambda t: t.int(), ["int32"]),
    (ops.gmm, "b", lambda t: t[0], [r"\b2\b", r"\b3\b"]),
    (ops.gmm, "b", lambda t: t.bfloat16(), ["bfloat16", "float32"]),
    (ops.gmm, "batch_sizes", lambda t: t[:3], [r"\b3\b", r"\b4\b"]),
    (ops.gmm, "batch_sizes", lambda t: t[None], [r"\b2\b"]),
    (ops.gmm, "batch_sizes", lambda t: t.float(), ["float32", "int"]),
    (ops.gmm, "batch_sizes", lambda t: t.short(), ["int16|Short", "int32", "int64", NO_FLOAT]),
    (ops.gmm, "batch_sizes", lambda t: t + 1, [r"\b25\b", r"\b21\b"]),
    (ops.gmm, "batch_sizes", lambda t: -t, ["-3"]),
    (ops.gmm, "batch_sizes", lambda t: [3, 0, 17, 1], ["list"]),
    (grouped_gemm.gmm_dgrad, "dy", lambda t: t[:, :15], [r"\b15\b", r"\b16\b"]),
    (grouped_gemm.gmm_dgrad, "dy", lambda t: t.half(), ["float16", "float32"]),
    (grouped_gemm.gmm_wgrad, "dy", lambda t: t[:20], [r"\b20\b", r"\b21\b"]),
    (grouped_gemm.gmm_wgrad, "dy", lambda t: t.half(), ["float16", "float32"]),
    (grouped_gemm.gmm_wgrad, "a", lambda t: t[0], [r"\b1\b"]),
    (ops.permute, "input_act", lambda t: t[0], [r"\b(1|8)\b", r"\b2\b"]),
    (ops.permute, "input_act", lambda t: t.long(), ["int64"]),
    (ops.permute, "indices", lambda t: t[:5], [r"\b5\b", r"\b7\b"]),
    (ops.permute, "indices", lambda t: t.float(), ["float32", "int"]),
    (ops.permute, "indices", lambda t: t.short(), ["int16|Short", "int32", "int64", NO_FLOAT]),
    (ops.permute, "indices", lambda t: t.bool(), ["(?i)bool", "int32", "int64", NO_FLOAT]),
    (ops.permute, "indices", lambda t: t[None], [r"\b3\b"]),
    (ops.permute, "indices", lambda t: t.tolist(), ["list"]),
    (grouped_gemm.moe_permute, "indices", lambda t: t[:5], [r"\b5\b", r"\b7\b"]),
    (grouped_gemm.moe_permute, "num_experts", lambda n: 0, [r"\b0\b"]),
    (grouped_gemm.moe_permute, "num_experts", lambda n: -3, ["-3"]),
    (ops.unpermute, "input_act", lambda t: t[0], [r"\b(1|8)\b", r"\b2\b"]),
    (ops.unpermute, "row_id_map", lambda t: t[:13], [r"\b13\b"]),
    (ops.unpermute, "row_id_map", lambda t: t.float(), ["float32", "int"]),
    (ops.unpermute, "probs", lambda t: t[:6], [r"\b(6|12)\b"]),
    (ops.unpermute, "probs", lambda t: t.int(), ["int32"]),
    (grouped_gemm.moe_unpermute, "row_id_map", lambda t: t.flatten(), [r"\b(1|14)\b"]),
    (grouped_gemm.moe_unpermute, "probs", lambda t: t[:6], [r"\b6\b"]),
    (grouped_gemm.moe_unpermute, "probs", lambda t: t[:, :1], [r"\b1\b"]),
    (grouped_gemm.sinkhorn, "cost", lambda t: t[0], [r"\b1\b", r"\b2\b"]),
    (grouped_gemm.sinkhorn, "cost", lambda t: t.int(), ["int32"]),
]


def word(argument):
    """How a message may name an argument: by its own name, or by the map's layout partner."""
    return {"probs": r"\b(probs|row_id_map)\b"}.get(argument, rf"\b{argument}\b")


def assert_good_message(error, operator, argument, needed):
    text = str(error)
    assert re.search(rf"\b(moe_)?{operator}\w*\b", text), f"the operator is not named: {text}"
    assert re.search(word(argument), text), f"{argument} is not named: {text}"
    for pattern in needed:
        assert re.search(pattern, text), f"{pattern} is not in: {text}"
    assert "needs" in text or "need" in text or "expect" in text, f"no need is stated: {text}"
    assert not re.search(r"/\w+/|\.(cc|cpp|cu|h|py)\b", text), f"a path is in: {text}"


@pytest.mark.parametrize(
    ("function", "argument", "spoil", "needed"),
    CASES,
    ids=[f"{f.__name__}-{argument}-{i}" for i, (f, argument, _, _) in enumerate(CASES)],
)
def test_bad_input_names_operator_argument_and_values(device, function, argument, spoil, needed):
    inputs = INPUTS[function](device)
    function(**inputs)  # good as they are
    inputs[argument] = spoil(inputs[argument])
    with pytest.raises(ERRORS) as caught:
        function(**inputs)
    assert_good_message(caught.value, function.__name__, argument, needed)
    if device.type == "cuda":  # the context still works
        assert torch.ones(3, device=device).sum().item() == 3


BAD_OUT = {
    "rows": (lambda d: torch.full((20, 16), 7.0, device=d), [r"\b20\b", r"\b21\b"]),
    "columns": (lambda d: torch.full((21, 15), 7.0, device=d), [r"\b15\b", r"\b16\b"]),
    "dimensions": (lambda d: torch.full((21,), 7.0, device=d), [r"\b(1|21)\b", r"\b(2|16)\b"]),
    "dtype": (lambda d: torch.full((21, 16), 7.0, dtype=torch.half, device=d), ["float16"]),
}


@pytest.mark.parametrize(("make", "needed"), BAD_OUT.values(), ids=BAD_OUT)
def test_an_out_that_does_not_fit_is_an_error_and_stays_as_it_was(device, make, needed):
    out = make(device)
    with pytest.raises(ERRORS) as caught:
        grouped_gemm.gmm(**gmm_inputs(device), out=out)
    assert_good_message(caught.value, "gmm", "out", needed)
    assert (out == 7.0).all()


@pytest.mark.parametrize(("make", "needed"), BAD_OUT.values(), ids=BAD_OUT)
def test_a_c_that_does_not_fit_is_an_error_and_stays_as_it_was(device, make, needed):
    c = make(device)
    inputs = gmm_inputs(device)
    with pytest.raises(ERRORS) as caught:
        backend.gmm(inputs["a"], inputs["b"], inputs["batch_sizes"], c=c)
    assert_good_message(caught.value, "gmm", "(c|out)", needed)
    assert (c == 7.0).all()


def test_a_wgrad_out_that_does_not_fit_is_an_error_and_stays_as_it_was(device):
    out = torch.full((4, 16, 24), 7.0, device=device)
    with pytest.raises(ERRORS) as caught:
        grouped_gemm.gmm_wgrad(**wgrad_inputs(device), out=out)
    assert_good_message(caught.value, "gmm_wgrad", "out", [r"\b16\b", r"\b24\b"])
    assert (out == 7.0).all()


def test_accumulating_needs_an_out(device):
    with pytest.raises(ERRORS, match="(?s)gmm_wgrad.*(accumulate.*out|out.*accumulate)"):
        grouped_gemm.gmm_wgrad(**wgrad_inputs(device), accumulate=True)


def test_out_and_another_out_dtype_contradict_each_other(device):
    out = torch.full((21, 16), 7.0, device=device)
    with pytest.raises(ERRORS, match="(?s)gmm.*out_dtype"):
        grouped_gemm.gmm(**gmm_inputs(device), out=out, out_dtype=torch.bfloat16)
    assert (out == 7.0).all()


@pytest.mark.parametrize("bad", [torch.int32, torch.bfloat16, torch.complex64], ids=str)
def test_an_out_dtype_that_is_neither_the_operands_nor_float32_is_an_error(device, bad):
    inputs = gmm_inputs(device)
    inputs["a"], inputs["b"] = inputs["a"].half(), inputs["b"].half()
    with pytest.raises(ERRORS) as caught:
        grouped_gemm.gmm(**inputs, out_dtype=bad)
    name = {torch.complex64: "complex64|ComplexFloat"}.get(bad, str(bad).removeprefix("torch."))
    assert_good_message(caught.value, "gmm", "out_dtype", [name])


def test_an_out_that_overlaps_an_operand_is_an_error_or_right(device):
    """K = N = 16: writing into the rows being read would feed on itself."""
    a, b = torch.randn(21, 16, device=device), torch.randn(4, 16, 16, device=device)
    sizes = torch.tensor([3, 0, 17, 1])
    expected = grouped_gemm.gmm(a, b, sizes)
    before = a.clone()
    try:
        result = grouped_gemm.gmm(a, b, sizes, out=a)
    except ERRORS as error:
        assert "out" in str(error) and torch.equal(a, before)
        return
    assert torch.equal(result, expected)


def test_a_c_between_the_columns_of_an_operand_is_refused_only_where_they_meet(device):
    sizes = torch.tensor([3, 0, 17, 1])
    b = torch.randn(4, 4, 6, device=device)
    buffer = torch.randn(21, 10, device=device)
    before = buffer.clone()
    with pytest.raises(ERRORS, match=r"gmm: c got memory that a lies in; needs"):
        backend.gmm(buffer[:, 0:4], b, sizes, c=buffer[:, 3:9])
    assert torch.equal(buffer, before)
    expected = backend.gmm(buffer[:, 0:4], b, sizes)
    c = backend.gmm(buffer[:, 0:4], b, sizes, c=buffer[:, 4:10])
    assert torch.equal(c, expected) and torch.equal(buffer[:, 0:4], before[:, 0:4])


@pytest.mark.parametrize("strides", [(2, 1), (1, 5), (0, 1)], ids=str)
def test_a_c_whose_elements_overlap_is_refused_and_stays_as_it_was(device, strides):
    memory = torch.full((400,), 7.0, device=device)
    inputs = gmm_inputs(device)
    c = memory.as_strided((21, 16), strides)
    with pytest.raises(ERRORS, match=r"gmm: c got stride .* needs a tensor whose elements do not"):
        backend.gmm(inputs["a"], inputs["b"], inputs["batch_sizes"], c=c)
    assert (memory == 7.0).all()


@pytest.mark.parametrize("num_out_tokens", [-1, -100])
def test_a_negative_num_out_tokens_is_an_error(device, num_out_tokens):
    with pytest.raises(ERRORS) as caught:
        ops.permute(**permute_inputs(device), num_out_tokens=num_out_tokens)
    assert_good_message(caught.value, "permute", "num_out_tokens", [str(num_out_tokens)])


@pytest.mark.parametrize("max_iterations", [0, -1])
def test_sinkhorn_needs_at_least_one_iteration(device, max_iterations):
    with pytest.raises(ERRORS, match="(?s)sinkhorn.*max_iterations"):
        grouped_gemm.sinkhorn(torch.randn(4, 3, device=device), max_iterations=max_iterations)


@pytest.mark.cuda
def test_float64_has_no_gpu_kernel_and_says_so():
    inputs = gmm_inputs("cuda")
    inputs["a"], inputs["b"] = inputs["a"].double(), inputs["b"].double()
    with pytest.raises(ERRORS) as caught:
        ops.gmm(**inputs)
    assert_good_message(caught.value, "gmm", "a", ["float64"])


@pytest.mark.cuda
@pytest.mark.parametrize("argument", ["a", "b"])
def test_operands_on_two_devices_are_an_error_that_names_both(argument):
    inputs = gmm_inputs("cuda")
    inputs[argument] = inputs[argument].cpu()
    with pytest.raises(ERRORS) as caught:
        ops.gmm(**inputs)
    assert_good_message(caught.value, "gmm", "[ab]", ["cpu", "cuda"])


@pytest.mark.parametrize("device_name", ["meta"])
def test_tensors_of_a_device_without_kernels_give_shapes_or_an_error(device_name):
    a = torch.empty(21, 24, device=device_name)
    b = torch.empty(4, 24, 16, device=device_name)
    y = ops.gmm(a, b, torch.empty(4, dtype=torch.int64, device=device_name))
    assert y.shape == (21, 16) and y.device.type == "meta"


@pytest.mark.parametrize("function", INPUTS, ids=lambda f: f.__name__)
def test_something_that_is_no_tensor_is_a_type_error(device, function):
    inputs = INPUTS[function](device)
    first = next(iter(inputs))
    inputs[first] = "no tensor"
    with pytest.raises(ERRORS, match=rf"(?s){function.__name__}.*{first}|{first}.*str"):
        function(**inputs)
