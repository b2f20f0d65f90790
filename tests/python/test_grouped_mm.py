"""grouped_mm has the signature and the meaning of torch.nn.functional.grouped_mm."""

import inspect

import grouped_gemm
import pytest
import torch
from support import reference
from support.compare import (
    assert_all_zero,
    assert_close_elementwise,
    assert_gemm_close,
    assert_same_bits,
    rounding_bound,
    wgrad_depth,
)
from support.shapes import GEMM_DTYPES, GROUPS, random_operands

SIZES = [3, 0, 17, 1]
ERRORS = (ValueError, TypeError, RuntimeError)
torch_grouped_mm = getattr(torch.nn.functional, "grouped_mm", None)


def ends(sizes, device):
    return torch.cumsum(torch.tensor(sizes), 0).to(torch.int32).to(device)


def test_the_signature_is_torchs():
    parameters = inspect.signature(grouped_gemm.grouped_mm).parameters
    assert list(parameters) == ["mat_a", "mat_b", "offs", "bias", "out_dtype"]
    for name in ("offs", "bias", "out_dtype"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default is None


@pytest.mark.parametrize("column_major", [False, True])
@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_2d_by_3d_is_gmm(device, sizes, dtype, column_major):
    a, b = random_operands(sizes, 24, 16, dtype, device, trans_b=column_major)
    y = grouped_gemm.grouped_mm(a, b.mT if column_major else b, offs=ends(sizes, device))
    assert y.dtype == dtype
    assert_gemm_close(y, reference.gmm, a, b, sizes, 24, column_major)


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
def test_2d_by_2d_sums_over_each_groups_columns(device, sizes, dtype):
    a, _ = random_operands(sizes, 24, 16, dtype, device)
    dy = torch.randn(a.shape[0], 16).to(dtype).to(device)
    dw = grouped_gemm.grouped_mm(a.mT, dy, offs=ends(sizes, device))
    assert dw.dtype == dtype
    assert_gemm_close(dw, reference.gmm_wgrad, a, dy, sizes, wgrad_depth(sizes))


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_3d_by_3d_is_a_batched_product(device, dtype):
    a = torch.randn(3, 5, 24).to(dtype).to(device)
    b = torch.randn(3, 24, 16).to(dtype).to(device)
    y = grouped_gemm.grouped_mm(a, b)
    expected = a.cpu().double() @ b.cpu().double()
    magnitude = a.cpu().double().abs() @ b.cpu().double().abs()
    bound = rounding_bound(dtype, expected) + 4 * torch.finfo(torch.float32).eps * 5 * magnitude
    assert y.dtype == dtype
    assert_close_elementwise(y, expected, bound)


def test_3d_by_2d_is_right_or_refused(device):
    a = torch.randn(4, 5, 24, device=device)
    b = torch.randn(24, sum(SIZES), device=device)
    try:
        y = grouped_gemm.grouped_mm(a, b, offs=ends(SIZES, device))
    except ERRORS as error:
        assert "grouped_mm" in str(error) and "mat_a" in str(error)
        return
    columns = [
        a[e].cpu().double() @ b[:, begin:end].cpu().double()
        for e, begin, end in reference.row_ranges(SIZES)
    ]
    expected = torch.cat(columns, dim=1)
    assert_close_elementwise(y, expected, 1e-4)


def test_rows_past_the_last_offset_are_zeros(device):
    a, b = random_operands(SIZES, 24, 16, torch.bfloat16, device, extra_rows=9)
    y = grouped_gemm.grouped_mm(a, b, offs=ends(SIZES, device))
    assert_all_zero(y[sum(SIZES) :])
    assert_gemm_close(y, reference.gmm, a, b, SIZES, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_2d_by_3d(device, dtype):
    a, b = random_operands(SIZES, 24, 16, dtype, device, requires_grad=True)
    y = grouped_gemm.grouped_mm(a, b, offs=ends(SIZES, device))
    dy = torch.randn(y.shape).to(dtype).to(device)
    y.backward(dy)
    assert_gemm_close(a.grad, reference.gmm_dgrad, dy, b, SIZES, 16)
    assert_gemm_close(b.grad, reference.gmm_wgrad, a, dy, SIZES, wgrad_depth(SIZES))


def test_gradients_of_2d_by_2d(device):
    a = torch.randn(24, sum(SIZES), device=device, requires_grad=True)
    b = torch.randn(sum(SIZES), 16, device=device, requires_grad=True)
    y = grouped_gemm.grouped_mm(a, b, offs=ends(SIZES, device))
    dy = torch.randn(y.shape, device=device)
    y.backward(dy)
    # a: dA[:, group] = dy[group] @ b[group]^T; b: dB[group] = a[:, group]^T @ dy[group]
    assert_gemm_close(a.grad.mT, reference.gmm, b, dy, SIZES, 16, True)
    assert_gemm_close(b.grad, reference.gmm, a.detach().mT, dy, SIZES, 24)


def test_gradients_of_3d_by_3d(device):
    a = torch.randn(3, 5, 24, device=device, requires_grad=True)
    b = torch.randn(3, 24, 16, device=device, requires_grad=True)
    y = grouped_gemm.grouped_mm(a, b)
    dy = torch.randn(y.shape, device=device)
    y.backward(dy)
    a64, b64, dy64 = (t.detach().cpu().double() for t in (a, b, dy))
    for grad, left, right in ((a.grad, dy64, b64.mT), (b.grad, a64.mT, dy64)):
        bound = 16 * torch.finfo(torch.float32).eps * (left.abs() @ right.abs())
        assert_close_elementwise(grad, left @ right, bound)


@pytest.mark.skipif(torch_grouped_mm is None, reason="this torch has no grouped_mm")
@pytest.mark.parametrize("form", ["2d by 3d", "2d by 2d", "3d by 3d"])
def test_torchs_own_result_is_ours(device, form):
    """On shapes that torch accepts (bf16, 16-byte rows, int32 offsets)."""
    a, b, offs = {
        "2d by 3d": ((32, 64), (3, 64, 48), [8, 8, 32]),
        "2d by 2d": ((64, 32), (32, 48), [8, 16, 32]),
        "3d by 3d": ((3, 16, 64), (3, 64, 48), None),
    }[form]
    a = torch.randint(-3, 4, a).bfloat16().to(device)
    b = torch.randint(-3, 4, b).bfloat16().to(device)
    offs = None if offs is None else torch.tensor(offs, dtype=torch.int32, device=device)
    ours = grouped_gemm.grouped_mm(a, b, offs=offs)
    theirs = torch_grouped_mm(a, b, offs=offs)
    if form == "2d by 2d":
        theirs = theirs.contiguous()
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)  # small integers: exact in both


@pytest.mark.parametrize("out_dtype", [None, torch.bfloat16])
def test_out_dtype_may_repeat_the_operands(device, out_dtype):
    a, b = random_operands(SIZES, 24, 16, torch.bfloat16, device)
    y = grouped_gemm.grouped_mm(a, b, offs=ends(SIZES, device), out_dtype=out_dtype)
    assert y.dtype == torch.bfloat16


def _offs(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


A, B = torch.randn(21, 24), torch.randn(4, 24, 16)
REFUSED = {
    "no offs": (A, B, {}, "offs"),
    "2d by 2d without offs": (A.mT, A, {}, "offs"),
    "offs of int64": (A, B, {"offs": _offs(3, 3, 20, 21, dtype=torch.int64)}, "offs"),
    "offs of float": (A, B, {"offs": _offs(3, 3, 20, 21, dtype=torch.float32)}, "offs"),
    "offs in two dimensions": (A, B, {"offs": _offs(3, 3, 20, 21)[None]}, "offs"),
    "offs for another number of groups": (A, B, {"offs": _offs(3, 21)}, "offs"),
    "offs where both are 3d": (B.mT, B, {"offs": _offs(1, 2, 3, 4)}, "offs"),
    "bias": (A, B, {"offs": _offs(3, 3, 20, 21), "bias": torch.zeros(16)}, "bias"),
    "one dimension": (A[0], B, {"offs": _offs(3, 3, 20, 21)}, "mat_a"),
    "four dimensions": (A, B[None], {"offs": _offs(3, 3, 20, 21)}, "mat_b"),
    "another K": (A, B[:, :23], {"offs": _offs(3, 3, 20, 21)}, "mat_[ab]"),
    "another batch": (B.mT, B[:3], {}, "mat_[ab]"),
    "mixed dtypes": (A, B.bfloat16(), {"offs": _offs(3, 3, 20, 21)}, "mat_[ab]"),
    "integers": (A.int(), B.int(), {"offs": _offs(3, 3, 20, 21)}, "mat_[ab]"),
    "out_dtype of another half": (
        A.bfloat16(),
        B.bfloat16(),
        {"offs": _offs(3, 3, 20, 21), "out_dtype": torch.float16},
        "out_dtype",
    ),
}


@pytest.mark.parametrize(("a", "b", "keywords", "argument"), REFUSED.values(), ids=REFUSED)
def test_what_torch_refuses_is_refused_in_our_words(device, a, b, keywords, argument):
    moved = {k: v.to(device) if torch.is_tensor(v) else v for k, v in keywords.items()}
    with pytest.raises(ERRORS, match=f"grouped_mm(.|\n)*{argument}"):
        grouped_gemm.grouped_mm(a.to(device), b.to(device), **moved)


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_casts_nothing_as_in_torch(device, compiled):
    offs = _offs(3, 3, 20, 21).to(device)
    function = grouped_gemm.grouped_mm
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b, keywords in ((A, B, {"offs": offs}), (A.mT, A, {"offs": offs}), (B.mT, B, {})):
        a, b = a.to(device), b.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            y = function(a, b, out_dtype=torch.float32, **keywords)
        assert_same_bits(y, grouped_gemm.grouped_mm(a, b, **keywords))
