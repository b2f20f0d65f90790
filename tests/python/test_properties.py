"""Properties that hold for every input, tried on inputs that hypothesis makes up."""

import grouped_gemm
import torch
from grouped_gemm import ops
from hypothesis import given
from hypothesis import strategies as st
from support import reference
from support.compare import assert_all_zero, assert_gemm_close, assert_same_bits
from support.shapes import GEMM_DTYPES, PERMUTE_DTYPES, random_activations

sizes_lists = st.lists(st.integers(0, 70), min_size=1, max_size=9)
widths = st.integers(0, 70)
expert_ids = st.one_of(st.integers(0, 5), st.integers(-3, 5000), st.integers(-(2**63), 2**63 - 1))


@st.composite
def index_tables(draw, ids=expert_ids):
    tokens, top_k = draw(st.integers(0, 40)), draw(st.integers(1, 6))
    flat = draw(st.lists(ids, min_size=tokens * top_k, max_size=tokens * top_k))
    return torch.tensor(flat, dtype=torch.int64).reshape(tokens, top_k)


@given(
    sizes=sizes_lists,
    k=widths,
    n=widths,
    extra_rows=st.integers(0, 9),
    trans_b=st.booleans(),
    dtype=st.sampled_from(GEMM_DTYPES),
    on_device=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_gmm_and_its_gradients_equal_the_loop(
    device, sizes, k, n, extra_rows, trans_b, dtype, on_device, seed
):
    torch.manual_seed(seed)
    a = torch.randn(sum(sizes) + extra_rows, k).to(dtype).to(device).requires_grad_()
    shape = (len(sizes), n, k) if trans_b else (len(sizes), k, n)
    b = torch.randn(shape).to(dtype).to(device).requires_grad_()
    batch_sizes = torch.tensor(sizes, device=device if on_device else "cpu")
    y = ops.gmm(a, b, batch_sizes, trans_b)
    dy = torch.randn(y.shape).to(dtype).to(device)
    y.backward(dy)
    assert_gemm_close(y, reference.gmm, a, b, sizes, k, trans_b)
    assert_gemm_close(a.grad, reference.gmm_dgrad, dy, b, sizes, n, trans_b)
    depth = max(sizes)
    assert_gemm_close(b.grad, reference.gmm_wgrad, a, dy, sizes, depth, trans_b)


@given(table=index_tables(), num_out_tokens=st.integers(0, 300))
def test_the_row_map_is_the_stable_sort_of_the_slots(device, table, num_out_tokens):
    x = torch.zeros(table.shape[0], 1, device=device)
    _, row_id_map = ops.permute(x, table.to(device), num_out_tokens)
    assert row_id_map.tolist() == reference.row_map(table, num_out_tokens)[0]


@given(table=index_tables())
def test_the_rows_that_the_map_names_are_distinct_and_without_gaps(device, table):
    x = torch.zeros(table.shape[0], 1, device=device)
    _, row_id_map = ops.permute(x, table.to(device))
    rows = sorted(r for r in row_id_map.tolist() if r >= 0)
    assert rows == list(range((table >= 0).sum().item()))


@given(
    table=index_tables(),
    hidden=st.integers(0, 40),
    dtype=st.sampled_from(PERMUTE_DTYPES),
    num_out_tokens=st.integers(0, 300),
    seed=st.integers(0, 2**31),
)
def test_permuted_rows_are_bit_copies_of_their_tokens(
    device, table, hidden, dtype, num_out_tokens, seed
):
    torch.manual_seed(seed)
    x = random_activations(table.shape[0], hidden, dtype, device)
    permuted, _ = ops.permute(x, table.to(device), num_out_tokens)
    _, source = reference.row_map(table, num_out_tokens)
    assert_same_bits(permuted, reference.gather_rows(x, source))


@given(
    table=index_tables(st.integers(0, 6)),
    hidden=st.integers(1, 40),
    dtype=st.sampled_from(GEMM_DTYPES),
    seed=st.integers(0, 2**31),
)
def test_unpermute_undoes_permute(device, table, hidden, dtype, seed):
    """With weights that are powers of two summing to one, exactly."""
    torch.manual_seed(seed)
    tokens, top_k = table.shape
    x = random_activations(tokens, hidden, dtype, device)
    permuted, row_id_map = ops.permute(x, table.to(device))
    weights = [2.0 ** -(k + 1) for k in range(top_k)]
    weights[-1] = 1 - sum(weights[:-1])
    probs = torch.tensor(weights, dtype=torch.float32, device=device).expand(tokens, top_k)
    assert_same_bits(ops.unpermute(permuted, row_id_map, probs), x)


@given(
    table=index_tables(st.integers(-2, 9)),
    num_experts=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_moe_permute_groups_are_what_its_counts_say(device, table, num_experts, seed):
    torch.manual_seed(seed)
    x = random_activations(table.shape[0], 3, torch.float32, device)
    result = grouped_gemm.moe_permute(x, table.to(device), num_experts=num_experts)
    mapping, source = reference.row_map(table, num_experts=num_experts)
    assert result.row_id_map.flatten().tolist() == mapping
    assert_same_bits(result.permuted, reference.gather_rows(x, source))
    flat = table.flatten().tolist()
    assert result.tokens_per_expert.tolist() == [flat.count(e) for e in range(num_experts)]
    assert result.offs.tolist() == torch.cumsum(result.tokens_per_expert, 0).tolist()
    assert_all_zero(result.permuted[int(result.offs[-1]) :])


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    scale=st.floats(0, 5),
    iterations=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_sinkhorn_is_the_formula(device, shape, scale, iterations, seed):
    torch.manual_seed(seed)
    cost = (torch.randn(shape) * scale).clamp(-15, 15).to(device)
    result = grouped_gemm.sinkhorn(cost, 0.0, max_iterations=iterations)
    expected, _ = reference.sinkhorn(cost, iterations)
    error = (result.cpu().double() - expected).abs()
    assert (error <= 1e-4 * expected + 1e-35).all()
