"""The decisions taken where the older packages leave room; each is promised to users.

Ids and group sizes of every kind are in test_permute.py and test_gmm_sizes.py.
"""

import grouped_gemm
import pytest
import torch
from grouped_gemm import backend, ops
from support import reference
from support.compare import (
    assert_all_zero,
    assert_close_elementwise,
    assert_gemm_close,
    assert_same_bits,
)
from support.shapes import (
    GEMM_DTYPES,
    PERMUTE_DTYPES,
    random_activations,
    random_indices,
    random_operands,
)

SIZES = [3, 0, 17, 1]
ERRORS = (ValueError, TypeError, RuntimeError)


def test_the_largest_int64_marks_a_drop_and_sorts_last(device):
    """The caller then takes num_out_tokens = what was kept, and the map says -1 beyond."""
    x = random_activations(9, 8, torch.float32, device)
    indices = random_indices(9, 2, 4, device)
    indices[::2, 1] = torch.iinfo(torch.int64).max
    kept = 18 - 5
    permuted, row_id_map = ops.permute(x, indices, kept)
    mapping, source = reference.row_map(indices, kept)
    assert row_id_map.tolist() == mapping
    assert (row_id_map.reshape(2, 9).T[::2, 1] == -1).all()
    assert_same_bits(permuted, reference.gather_rows(x, source))


@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
def test_unpermute_without_probs_gives_unmerged_rows_in_slot_order(device, dtype):
    x = random_activations(7, 5, dtype, device)
    indices = random_indices(7, 3, 4, device)
    indices[2, 0], indices[4] = -1, -1
    permuted, row_id_map = ops.permute(x, indices)
    y = ops.unpermute(permuted, row_id_map)
    assert y.shape == (21, 5)
    source = [t if indices[t, k] >= 0 else -1 for k in range(3) for t in range(7)]
    assert_same_bits(y, reference.gather_rows(x, source))


def test_unpermute_without_probs_has_the_right_shape_under_num_out_tokens(device):
    x = random_activations(7, 5, torch.float32, device)
    indices = random_indices(7, 3, 4, device)
    permuted, row_id_map = ops.permute(x, indices, 10)
    y = ops.unpermute(permuted, row_id_map)
    assert y.shape == (21, 5)
    source = [m % 7 if row >= 0 else -1 for m, row in enumerate(row_id_map.tolist())]
    assert_same_bits(y, reference.gather_rows(x, source))


def test_unpermute_without_probs_gathers_gradients(device):
    rows = torch.randn(10, 5, device=device, requires_grad=True)
    indices = random_indices(7, 3, 4, device)
    _, row_id_map = ops.permute(torch.randn(7, 5, device=device), indices, 10)
    grad = torch.randn(21, 5, device=device)
    ops.unpermute(rows, row_id_map).backward(grad)
    expected = torch.zeros(10, 5, device=device)
    for entry, row in enumerate(row_id_map.tolist()):
        if row >= 0:
            expected[row] = grad[entry]
    assert_same_bits(rows.grad, expected)


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_backend_unpermute_with_an_empty_prob_merges_with_weight_one(device, where):
    x = random_activations(7, 8, torch.bfloat16, device)
    indices = random_indices(7, 3, 4, device)
    permuted, row_id_map = ops.permute(x, indices)
    empty = torch.tensor([]) if where == "cpu" else torch.tensor([], device=device)
    y = backend.unpermute(permuted, row_id_map, empty, 7, 3)
    assert y.shape == (7, 8)
    assert_same_bits(y, x * 3)


def test_backend_unpermute_bwd_without_prob_means_one_expert_per_token(device):
    x = random_activations(7, 8, torch.float32, device)
    permuted, row_id_map = ops.permute(x, random_indices(7, 1, 4, device))
    grad = torch.randn(7, 8, device=device)
    act_grad, _ = backend.unpermute_bwd(grad, permuted, row_id_map, None)
    expected = torch.empty_like(grad)
    expected[row_id_map.long()] = grad
    assert_same_bits(act_grad, expected)


@pytest.mark.parametrize("dtype", GEMM_DTYPES, ids=str)
def test_backend_unpermute_bwd_gives_both_gradients(device, dtype):
    indices = random_indices(7, 3, 4, device)
    rows = torch.randint(-4, 5, (21, 8)).to(dtype).to(device)
    _, row_id_map = ops.permute(rows[:7], indices)
    probs = (torch.randint(0, 5, (7, 3)) / 4).to(device)
    grad = torch.randint(-4, 5, (7, 8)).to(dtype).to(device)
    act_grad, prob_grad = backend.unpermute_bwd(grad, rows, row_id_map, probs)
    expected = reference.unpermute_grads(grad, rows, row_id_map, 7, 3, probs)
    assert act_grad.dtype == dtype and prob_grad.shape == (7, 3)
    assert_close_elementwise(act_grad, expected[0], 0)
    assert_close_elementwise(prob_grad, expected[1], 0)


@pytest.mark.cuda
@pytest.mark.parametrize("argument", ["indices", "row_id_map", "probs"])
def test_a_cpu_argument_beside_gpu_activations_is_moved_or_an_error_naming_it(argument):
    x = random_activations(7, 8, torch.float32, "cuda")
    arguments = {"indices": random_indices(7, 2, 4, "cuda")}
    permuted, row_id_map = ops.permute(x, arguments["indices"])
    arguments |= {"row_id_map": row_id_map, "probs": torch.full((7, 2), 0.5, device="cuda")}
    arguments[argument] = arguments[argument].cpu()
    try:
        permuted, _ = ops.permute(x, arguments["indices"])
        y = ops.unpermute(permuted, arguments["row_id_map"], arguments["probs"])
    except ERRORS as error:
        assert argument in str(error)
        return
    assert_same_bits(y, x)


def test_backend_gmm_returns_c_itself_with_tail_rows_zeroed(device):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device, extra_rows=3)
    c = torch.full((24, 16), float("nan"), device=device)
    assert backend.gmm(a, b, torch.tensor(SIZES), c=c) is c
    assert_all_zero(c[21:])


@pytest.mark.parametrize("layout", ["column slice", "transposed"])
@pytest.mark.parametrize("trans_a", [False, True])
def test_a_c_that_is_not_contiguous_is_filled_rightly_or_refused_untouched(device, trans_a, layout):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    right = torch.randn(21, 16, device=device) if trans_a else b
    shape = (4, 24, 16) if trans_a else (21, 16)
    if layout == "column slice":
        storage = torch.full((*shape[:-1], 20), 7.0, device=device)
        c, rest = storage[..., :16], storage[..., 16:]
    else:
        storage = torch.full((*shape[:-2], shape[-1], shape[-2]), 7.0, device=device)
        c, rest = storage.mT, storage[:0]
    try:
        result = backend.gmm(a, right, torch.tensor(SIZES), trans_a=trans_a, c=c)
    except ERRORS as error:
        assert "gmm" in str(error)
        assert (storage == 7.0).all(), "a refused call wrote into c"
        return
    assert result is c and (rest == 7.0).all()
    if trans_a:
        assert_gemm_close(c, reference.gmm_wgrad, a, right, SIZES, 17)
    else:
        assert_gemm_close(c, reference.gmm, a, b, SIZES, 24)


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("with_c", [False, True])
def test_backend_gmm_accepts_operands_that_require_grad(device, with_c, trans_a):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device, requires_grad=True)
    right = torch.randn(21, 16, device=device, requires_grad=True) if trans_a else b
    shape = (4, 24, 16) if trans_a else (21, 16)
    c = torch.full(shape, float("nan"), device=device) if with_c else None
    y = backend.gmm(a, right, torch.tensor(SIZES), trans_a=trans_a, c=c)
    assert y.shape == shape
    assert y.detach().isfinite().all()


def test_a_c_that_autograd_still_needs_is_accepted_and_its_use_is_noticed(device):
    """An old activation may be part of a graph; overwriting it must not give garbage later."""
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    activation = torch.randn(21, 16, device=device, requires_grad=True) * 2
    loss = activation.square().sum()
    assert backend.gmm(a, b, torch.tensor(SIZES), c=activation) is activation
    assert_gemm_close(activation, reference.gmm, a, b, SIZES, 24)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("call", [ops.gmm, grouped_gemm.gmm], ids=["ops.gmm", "gmm"])
def test_offs_are_taken_by_ops_gmm_and_gmm_alike(device, call):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    offs = torch.tensor([3, 3, 20, 21], dtype=torch.int32, device=device)
    assert_gemm_close(call(a, b, None, offs=offs), reference.gmm, a, b, SIZES, 24)


@pytest.mark.parametrize("function", ["gmm", "gmm_dgrad", "gmm_wgrad"])
@pytest.mark.parametrize("which", [0, 1])
def test_out_with_operands_that_require_grad_is_an_error(device, function, which):
    a, b = random_operands(SIZES, 16, 16, torch.float32, device)
    operands = [a, torch.randn(21, 16, device=device) if function == "gmm_wgrad" else b]
    operands[which].requires_grad_()
    out = torch.full((4, 16, 16) if function == "gmm_wgrad" else (21, 16), 7.0, device=device)
    with pytest.raises(ERRORS, match="(?s)out.*grad"):
        getattr(grouped_gemm, function)(*operands, torch.tensor(SIZES), out=out)
    assert (out == 7.0).all()
    with torch.no_grad():  # as in a backward pass: nothing is recorded, so nothing is lost
        getattr(grouped_gemm, function)(*operands, torch.tensor(SIZES), out=out)
    assert not (out == 7.0).any()


def test_sinkhorn_with_tol_of_zero_ends_at_the_documented_cap(device):
    import inspect

    cap = inspect.signature(grouped_gemm.sinkhorn).parameters["max_iterations"].default
    assert isinstance(cap, int) and cap > 0
    assert str(cap) in (grouped_gemm.sinkhorn.__doc__ or "")
    _, info = grouped_gemm.sinkhorn(torch.zeros(4, 3, device=device), 0.0, return_info=True)
    assert int(info.iterations) == cap


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_a_dropped_slots_prob_never_matters(device, value):
    rows = torch.ones(3, 4, device=device, requires_grad=True)
    row_id_map = torch.tensor([0, 1, 2, -1], dtype=torch.int32, device=device)
    probs = torch.tensor([[1.0, 2.0], [3.0, value]], device=device)
    y = ops.unpermute(rows, row_id_map, probs)
    assert y[:, 0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_operand_dtypes_are_an_error_but_fine_under_autocast(device, dtype):
    a, b = random_operands(SIZES, 24, 16, torch.float32, device)
    with pytest.raises(ERRORS, match="(?s)gmm.*float32"):
        ops.gmm(a.to(dtype), b, torch.tensor(SIZES))
    with torch.autocast(device.type, dtype=dtype):
        y = ops.gmm(a.to(dtype), b, torch.tensor(SIZES))
    assert y.dtype == dtype
    assert_gemm_close(y, reference.gmm, a.to(dtype), b.to(dtype), SIZES, 24)
