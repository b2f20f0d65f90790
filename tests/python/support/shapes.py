"""The tables of shapes that the tests share; one place, so that no operator misses an edge case."""

import torch

# name -> rows of each group. T is their sum.
GROUPS = {
    "no_tokens": [0, 0, 0],
    "one_token": [0, 1, 0],
    "all_to_one_expert": [0, 0, 37, 0],
    "every_second_empty": [5, 0, 7, 0, 3, 0],
    "one_group": [33],
    "256_groups_of_one": [1] * 256,
    "around_tile_edges": [1, 63, 64, 65, 127, 129],
}

# (K, N) of the grouped matrix product: one, odd, shorter than 16 bytes, around tiles, very long.
MATRIX_SHAPES = [(1, 1), (3, 5), (7, 2), (16, 24), (63, 65), (64, 128), (130, 67)]
LONG_MATRIX_SHAPES = [(7168, 3), (3, 7168)]

GEMM_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FLOAT8_DTYPES = [torch.float8_e4m3fn, torch.float8_e5m2]
PERMUTE_DTYPES = GEMM_DTYPES + FLOAT8_DTYPES

HIDDEN_SIZES = [1, 3, 7, 8, 64, 129]
TOP_KS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 129]

# How group sizes reach an operator: where they lie, their dtype, sizes or cumulative ends.
SIZE_KINDS = [
    "cpu_int64",
    "cpu_int32",
    "device_int64",
    "device_int32",
    "offs_int64",
    "offs_int32",
]


def size_arguments(sizes, kind, device):
    """The keyword arguments that hand `sizes` (a list) to gmm and its relatives as `kind` says."""
    place, dtype_name = kind.split("_")
    values = torch.tensor(sizes, dtype=getattr(torch, dtype_name))
    if place == "cpu":
        return {"batch_sizes": values}
    if place == "device":
        return {"batch_sizes": values.to(device)}
    return {"offs": torch.cumsum(values, 0).to(values.dtype).to(device)}


def random_operands(sizes, k, n, dtype, device, trans_b=False, extra_rows=0, requires_grad=False):
    """a [T, K] and b [E, K, N] ([E, N, K] with trans_b), reproducible on every device."""
    rows = sum(sizes) + extra_rows
    a = torch.randn(rows, k).to(dtype).to(device)
    b = torch.randn(len(sizes), n, k) if trans_b else torch.randn(len(sizes), k, n)
    b = b.to(dtype).to(device)
    return a.requires_grad_(requires_grad), b.requires_grad_(requires_grad)


def random_activations(tokens, hidden, dtype, device):
    """[tokens, hidden] of finite values, exactly representable in any of the dtypes."""
    return (torch.randint(-8, 9, (tokens, hidden)) / 4).to(dtype).to(device)


def random_indices(tokens, top_k, num_experts, device="cpu", dtype=torch.int64):
    """[tokens, top_k] expert ids; a token may name an expert twice (as topK > E forces)."""
    return torch.randint(0, num_experts, (tokens, top_k), dtype=dtype).to(device)
