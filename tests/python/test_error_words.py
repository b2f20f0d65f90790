"""Whatever is passed, the message speaks of the function that was called and of its arguments.

Which values are refused is in test_errors.py; here: what is no tensor or number at all, names that
differ from the operators', the drop-in modules, missing arguments.
"""

import grouped_gemm
import grouped_gemm_backend
import numpy
import pytest
import torch
from grouped_gemm import backend, ops
from grouped_gemm.nn import MoE

A, B, DY = torch.randn(6, 8), torch.randn(4, 8, 6), torch.randn(6, 6)
SIZES = torch.tensor([1, 2, 0, 3])
IDS, PROBS = torch.tensor([[0, 1]] * 6), torch.full((6, 2), 0.5)
ROWS, MAP = ops.permute(A, IDS)
SCALAR, TRUE = torch.tensor(1.0), torch.tensor(True)

Apply = ops.GroupedGemm.apply, ops.PermuteMoE_topK.apply, ops.UnpermuteMoE_topK.apply

# function, arguments, type of the error, and all of its message or a regular expression for it
CASES = [
    (backend.gmm, (None, B, SIZES), TypeError, "gmm: a got None; needs a tensor"),
    (backend.gmm, ([1], B, SIZES), TypeError, "gmm: a got list; needs a tensor"),
    (backend.gmm, (A, B, None), TypeError, "gmm: batch_sizes got None; needs a tensor"),
    (backend.gmm, (A, B, SIZES, False, "x"), TypeError, "gmm: trans_b got str; needs bool"),
    (backend.gmm, (A, B, SIZES, False, False, []), TypeError, "gmm: c got list; needs a tensor or"),
    (backend.gmm, (A, B, SIZES, False, False, DY[:5]), RuntimeError, r"gmm: c got shape \[5, 6\]"),
    (backend.gmm, (A, DY[:5], SIZES, True), RuntimeError, "gmm: b got 5 rows; needs a's, 6"),
    (backend.gmm, (A, B, SIZES, True), RuntimeError, "gmm: a and b got 2 and 3 dimensions; need"),
    (grouped_gemm_backend.gmm, (A, B, None, None, False, False), TypeError, "gmm: batch_sizes got"),
    (Apply[0], (None, B, SIZES, False), TypeError, "gmm: a got None; needs a tensor"),
    (Apply[0], (A, B, [1], False), TypeError, "gmm: batch_sizes got list; needs"),
    (Apply[1], (None, IDS, None, 0), TypeError, "permute: input_act got None; needs a tensor"),
    (Apply[1], (A, IDS, 3.5, 0), TypeError, "permute: num_out_tokens got float; needs int or None"),
    (Apply[2], (None, MAP, PROBS), TypeError, "unpermute: input_act got None; needs a tensor"),
    (Apply[2], (ROWS, MAP, SCALAR), ValueError, "unpermute: probs got 0 dimensions; needs"),
    (ops.unpermute, (ROWS, MAP, SCALAR), ValueError, "unpermute: probs got 0 dimensions; needs"),
    (backend.permute, (None, IDS, 0, [], 0), TypeError, "permute: input got None; needs a tensor"),
    (backend.permute, (A, [[1]], 0, [], 0), TypeError, "permute: indices got list; needs a tensor"),
    (backend.permute, (A, IDS, -1, [], 0), RuntimeError, "permute: num_out_tokens got -1; needs 0"),
    (ops.permute, (A, IDS, 2**31), RuntimeError, "permute: num_out_tokens got 2147483648; needs 0"),
    (backend.unpermute, (None, MAP, PROBS, 6, 2), TypeError, "unpermute: input got None; needs"),
    (backend.unpermute, (ROWS, MAP, [1], 6, 2), TypeError, "unpermute: prob got list; needs"),
    (backend.unpermute, (ROWS, MAP, PROBS, 6, 5), ValueError, "unpermute: num_topK got 5.*needs"),
    (backend.unpermute, (ROWS, MAP, PROBS, 6, None), TypeError, "unpermute: num_topK got None"),
    (backend.unpermute, (ROWS, MAP, PROBS.int(), 6, 2), RuntimeError, "unpermute: prob got dtype"),
    (backend.unpermute_bwd, (None, ROWS, MAP, PROBS), TypeError, "unpermute_bwd: input_bwd got"),
    (backend.unpermute_bwd, (A, None, MAP, PROBS), TypeError, "unpermute_bwd: input_fwd got None"),
    (backend.unpermute_bwd, (A, ROWS, [1], PROBS), TypeError, "unpermute_bwd: row_id_map got"),
    (backend.unpermute_bwd, (A, ROWS, MAP, SCALAR), ValueError, "unpermute_bwd: prob got 0 dim"),
    (backend.unpermute_bwd, (A, DY, MAP, PROBS), RuntimeError, "unpermute_bwd: input_fwd got"),
    (backend.sinkhorn, (None,), TypeError, "sinkhorn: cost got None; needs a tensor"),
    (ops.gmm, ("a Tensor", B, SIZES), TypeError, "gmm: a got str; needs a tensor"),
    (ops.unpermute, (ROWS, type("Tensor", (), {})()), TypeError, "unpermute: row_id_map got"),
    (grouped_gemm.gmm_dgrad, (DY, B), ValueError, "gmm_dgrad: batch_sizes and offs got neither"),
    (grouped_gemm.gmm_dgrad, (DY, B, SIZES[:3]), RuntimeError, "gmm_dgrad: batch_sizes got 3"),
    (grouped_gemm.gmm_main_grad, (A, None, SIZES), TypeError, "gmm_main_grad: weight got None"),
    (grouped_gemm.moe_route, (None, 2), TypeError, "moe_route: logits got None; needs a tensor"),
    (grouped_gemm.moe_route, (A, "2"), TypeError, "moe_route: topk got str; needs int"),
    (grouped_gemm.sinkhorn, (A, "x"), TypeError, "sinkhorn: tol got str; needs float"),
    (grouped_gemm.routing_map_to_indices, (TRUE,), ValueError, "routing_map_to_indices: routing"),
    (grouped_gemm.moe_permute, (A, TRUE), ValueError, "moe_permute: indices got 0 dimensions"),
    (grouped_gemm.moe_permute, (A, TRUE.view(1)), RuntimeError, "moe_permute: indices got a"),
    (
        grouped_gemm.moe_permute,
        (A, grouped_gemm.RowMap(None, None, None)),
        TypeError,
        r"moe_permute: indices\.row_id_map got None; needs a tensor",
    ),
    (MoE(8, 16, 4, 2), (None,), TypeError, "MoE: argument x got NoneType; needs a tensor"),
    (ops.gmm, (A,), TypeError, r"gmm\(\) missing 1 required positional argument: 'b'"),
    (backend.gmm, (A, B), TypeError, r"gmm\(\) missing 1 .*'batch_sizes'"),
]


@pytest.mark.parametrize(("function", "arguments", "kind", "text"), CASES)
def test_the_message_names_function_argument_and_need(function, arguments, kind, text):
    with pytest.raises(Exception, match=rf"(?s)\A{text}") as caught:
        function(*arguments)
    assert type(caught.value) is kind
    assert "aoti_torch" not in str(caught.value) and "grouped_gemm::" not in str(caught.value)


def test_both_conventions_for_sizes_are_refused_in_the_callers_name():
    with pytest.raises(ValueError, match="gmm_dgrad: batch_sizes and offs got both"):
        grouped_gemm.gmm_dgrad(DY, B, SIZES, offs=SIZES)


def test_a_dtype_is_named_once_among_those_that_an_out_may_have():
    with pytest.raises(RuntimeError, match="gmm: out got dtype float16; needs float32;"):
        grouped_gemm.gmm(A, B, SIZES, out=torch.empty(6, 6, dtype=torch.float16))


def test_a_view_that_is_negative_by_a_flag_is_read_but_not_written():
    """PyTorch 2.11 aborts when an operator writes to one."""
    negative = torch.view_as_complex(torch.stack([torch.zeros_like(A), -A], -1)).conj().imag
    assert negative.is_neg()
    assert torch.equal(grouped_gemm.gmm(negative, B, SIZES), grouped_gemm.gmm(A, B, SIZES))
    for function, out in ((grouped_gemm.gmm, {"out": negative}), (backend.gmm, {"c": negative})):
        with pytest.raises(ValueError, match="gmm: .* got a view whose sign PyTorch keeps"):
            function(A, B, SIZES, **out)


def test_integers_of_other_kinds_are_integers():
    """An error of another kind then stays what it is."""
    for count in (torch.tensor(5), numpy.int64(5)):
        assert ops.permute(A, IDS, count)[0].shape == (5, 8)
        with pytest.raises(RuntimeError, match="permute: indices got dtype float32"):
            ops.permute(A, PROBS, count)


def test_errors_that_are_not_about_arguments_pass_unchanged(monkeypatch):
    class Raised(RuntimeError):
        pass

    def fail(*args):
        raise Raised("gmm: whatever")

    monkeypatch.setattr(grouped_gemm._functional, "local", fail)
    with pytest.raises(Raised, match="whatever"):
        grouped_gemm.gmm(A, B, SIZES, trans_b=0)
