"""The drop-in surface: names, argument orders and idioms of code written for the older packages."""

import inspect

import grouped_gemm
import grouped_gemm_backend
import pytest
import torch
from grouped_gemm import backend, ops
from support import reference
from support.compare import assert_all_zero, assert_gemm_close, assert_same_bits, wgrad_depth
from support.shapes import GEMM_DTYPES, random_activations, random_indices, random_operands

SIZES = [3, 0, 17, 1]
BATCH_SIZES = torch.tensor(SIZES)


def test_the_version_is_above_both_packages_it_replaces():
    assert tuple(int(part) for part in grouped_gemm.__version__.split(".")[:2]) >= (2, 0)


def test_a_plain_import_brings_ops_and_backend():
    assert grouped_gemm.ops is ops and grouped_gemm.backend is backend
    assert grouped_gemm.ops.backend is backend


def test_names_that_the_old_readme_imports_exist():
    from grouped_gemm import gmm, permute, unpermute

    assert all(callable(f) for f in (gmm, permute, unpermute))


SIGNATURES = [
    (ops.gmm, {"a": ..., "b": ..., "batch_sizes": None, "trans_b": False}),
    (ops.permute, {"input_act": ..., "indices": ..., "num_out_tokens": None, "max_token_num": 0}),
    (ops.unpermute, {"input_act": ..., "row_id_map": ..., "probs": None}),
    (ops.sinkhorn_kernel, {"cost": ..., "tol": 0.0001}),
    (
        backend.gmm,
        {"a": ..., "b": ..., "batch_sizes": ..., "trans_a": False, "trans_b": False, "c": None},
    ),
    (
        backend.permute,
        dict.fromkeys(
            ["input", "indices", "num_out_tokens", "workspace", "max_expanded_token_num"], ...
        ),
    ),
    (
        backend.unpermute,
        dict.fromkeys(["input", "row_id_map", "prob", "max_tokens", "num_topK"], ...),
    ),
    (backend.unpermute_bwd, dict.fromkeys(["input_bwd", "input_fwd", "row_id_map", "prob"], ...)),
    (backend.sinkhorn, {"cost": ..., "tol": 0.0001}),
]


@pytest.mark.parametrize(
    ("function", "expected"), SIGNATURES, ids=lambda v: getattr(v, "__name__", "")
)
def test_arguments_have_the_old_names_order_and_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional[: len(expected)]] == list(expected)
    for p in positional:
        wanted = expected.get(p.name, ...)
        if wanted is not ...:
            assert p.default == wanted
        elif p.name in expected:
            assert p.default is p.empty, f"{p.name} was required"
        else:
            assert p.default is not p.empty, f"{p.name} is new and must be optional"


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("trans_b", [False, True])
def test_backend_gmm_multiplies_like_ops_gmm(device, trans_b, dtype):
    a, b = random_operands(SIZES, 24, 13, dtype, device, trans_b)
    y = backend.gmm(a, b, BATCH_SIZES, False, trans_b)
    assert_same_bits(y, ops.gmm(a, b, BATCH_SIZES, trans_b))
    assert_gemm_close(y, reference.gmm, a, b, SIZES, 24, trans_b)


def test_backend_gmm_with_trans_b_and_c_is_dgrad(device):
    dy, w = random_operands(SIZES, 13, 24, torch.bfloat16, device, trans_b=True)
    buffer = torch.full((dy.shape[0], 24), float("nan"), dtype=torch.bfloat16, device=device)
    result = backend.gmm(dy, w, BATCH_SIZES, trans_b=True, c=buffer)
    assert result is buffer
    assert_gemm_close(buffer, reference.gmm, dy, w, SIZES, 13, True)


@pytest.mark.parametrize("with_c", [False, True])
def test_backend_gmm_with_trans_a_is_wgrad(device, with_c):
    x, _ = random_operands(SIZES, 24, 13, torch.bfloat16, device)
    dy = torch.randn(x.shape[0], 13).bfloat16().to(device)
    c = torch.full((4, 24, 13), float("nan"), dtype=torch.bfloat16, device=device)
    dw = backend.gmm(x, dy, BATCH_SIZES, trans_a=True, **({"c": c} if with_c else {}))
    assert (dw is c) == with_c
    assert_all_zero(dw[1], "the empty group's gradient")
    assert_gemm_close(dw, reference.gmm_wgrad, x, dy, SIZES, wgrad_depth(SIZES))


def test_trans_a_and_trans_b_together_are_an_error(device):
    x = torch.randn(21, 8, device=device)
    with pytest.raises((ValueError, RuntimeError), match="(?s)trans_a.*trans_b"):
        backend.gmm(x, x, BATCH_SIZES, trans_a=True, trans_b=True)


def test_c_may_be_an_old_activation_that_is_longer_than_the_groups(device):
    a, b = random_operands(SIZES, 24, 13, torch.float32, device, extra_rows=4)
    old_activation = torch.randn(a.shape[0], 13, device=device)
    result = backend.gmm(a, b, BATCH_SIZES, c=old_activation)
    assert result is old_activation
    assert_all_zero(old_activation[21:], "tail rows of c")
    assert_gemm_close(result, reference.gmm, a, b, SIZES, 24)


def test_weights_may_be_a_view_of_a_two_dimensional_parameter(device):
    parameter = torch.randn(24, 4 * 13, device=device, requires_grad=True)
    b = parameter.view(24, 4, 13).transpose(0, 1)
    flat = torch.randn(4 * 24, 13, device=device, requires_grad=True)
    a = torch.randn(21, 24, device=device)
    for weight, owner in ((b, parameter), (flat.view(4, 24, 13), flat)):
        y = ops.gmm(a, weight, BATCH_SIZES)
        assert_gemm_close(y, reference.gmm, a, weight, SIZES, 24)
        y.sum().backward()
        assert owner.grad.shape == owner.shape and owner.grad.abs().sum() > 0


def test_the_extension_module_takes_c_third(device):
    a, b = random_operands(SIZES, 24, 13, torch.bfloat16, device)
    c = torch.full((21, 13), float("nan"), dtype=torch.bfloat16, device=device)
    grouped_gemm_backend.gmm(a, b, c, BATCH_SIZES, False, False)
    assert_gemm_close(c, reference.gmm, a, b, SIZES, 24)


def test_the_extension_module_has_the_five_old_names(device):
    x = random_activations(6, 8, torch.float32, device)
    indices = random_indices(6, 2, 3, device, torch.int32)
    probs = torch.rand(6, 2, device=device)
    permuted, row_id_map, workspace = grouped_gemm_backend.permute(x, indices, 0, [], 12)
    assert workspace == []
    merged = grouped_gemm_backend.unpermute(permuted, row_id_map, probs, 6, 2)
    assert_same_bits(merged, ops.unpermute(permuted, row_id_map, probs))
    act_grad, prob_grad = grouped_gemm_backend.unpermute_bwd(merged, permuted, row_id_map, probs)
    assert act_grad.shape == permuted.shape and prob_grad.shape == probs.shape
    assert grouped_gemm_backend.sinkhorn(torch.randn(4, 3, device=device), 1e-4).shape == (4, 3)


@pytest.mark.parametrize("workspace", [[], [torch.zeros(3)]], ids=["empty", "with a tensor"])
def test_any_workspace_goes_in_and_comes_back(device, workspace):
    x = random_activations(6, 8, torch.float32, device)
    indices = random_indices(6, 2, 3, device, torch.int32)
    permuted, row_id_map, returned = backend.permute(x, indices, 0, workspace, 12)
    assert returned is workspace
    expected = ops.permute(x, indices)
    assert_same_bits(permuted, expected[0]), assert_same_bits(row_id_map, expected[1])


def test_backend_permute_drops_at_num_out_tokens(device):
    x = random_activations(6, 8, torch.float32, device)
    indices = random_indices(6, 2, 3, device, torch.int32)
    permuted, row_id_map, _ = backend.permute(x, indices, 7, [], 12)
    mapping, source = reference.row_map(indices, 7)
    assert row_id_map.tolist() == mapping
    assert_same_bits(permuted, reference.gather_rows(x, source))


def test_apply_takes_the_old_argument_orders(device):
    a, b = random_operands(SIZES, 24, 13, torch.float32, device, requires_grad=True)
    y = ops.GroupedGemm.apply(a, b, BATCH_SIZES, False)
    assert_same_bits(y, ops.gmm(a, b, BATCH_SIZES))
    y.sum().backward()
    assert a.grad is not None and b.grad is not None

    x = random_activations(6, 8, torch.float32, device).requires_grad_()
    indices = random_indices(6, 2, 3, device)
    probs = torch.rand(6, 2, device=device, requires_grad=True)
    permuted, row_id_map = ops.PermuteMoE_topK.apply(x, indices, None, 0)
    assert_same_bits(permuted, ops.permute(x, indices)[0])
    merged = ops.UnpermuteMoE_topK.apply(permuted, row_id_map, probs)
    assert_same_bits(merged, ops.unpermute(permuted, row_id_map, probs))
    merged.sum().backward()
    assert x.grad is not None and probs.grad is not None


def test_the_function_classes_are_autograd_functions():
    for name in ("GroupedGemm", "PermuteMoE_topK", "UnpermuteMoE_topK"):
        assert issubclass(getattr(ops, name), torch.autograd.Function)


def test_indices_straight_from_topk_and_num_out_tokens_as_int(device):
    logits = torch.randn(12, 6, device=device)
    _, indices = torch.topk(logits, 2)
    x = random_activations(12, 8, torch.bfloat16, device)
    permuted, row_id_map = ops.permute(x, indices, int(indices.numel()))
    mapping, source = reference.row_map(indices)
    assert row_id_map.tolist() == mapping
    assert_same_bits(permuted, reference.gather_rows(x, source))


def test_ops_gmm_takes_its_arguments_by_their_old_names(device):
    a, b = random_operands(SIZES, 24, 13, torch.float32, device, trans_b=True)
    y = ops.gmm(a=a, b=b, batch_sizes=BATCH_SIZES, trans_b=True)
    assert_gemm_close(y, reference.gmm, a, b, SIZES, 24, True)
