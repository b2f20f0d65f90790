"""FLOPs, bytes and the physical limit of a case: pure functions, no device.

FLOPs count a multiply and an add as two, over the rows that exist. Bytes are those that must
move between memory and chip at least once: operands read, results written, nothing twice;
sinkhorn's input, once it is known how often, in every iteration (and nothing else).
floor = max(FLOPs / dense rate, bytes / copy rate), both rates measured in the same run.
"""

from __future__ import annotations

from .cases import GEMM_OPS, MOE_OPS, MOVE_OPS, OPTION_OPS, ROUTE_OPS, Case
from .permute_options import option_rows
from .routing import route_bytes
from .sizes import group_sizes

ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "tf32": 4, "fp8": 1}
ID_BYTES = 8  # int64 expert ids
MAP_BYTES = 4  # int32 row map
PROB_BYTES = 4  # float32


def flops(case: Case) -> int:
    """Floating-point operations of one call; 0 where only memory matters."""
    product = 2 * case.tokens * case.k * case.n
    if case.op == "train":
        return 3 * product
    if case.op in GEMM_OPS:
        return product
    if case.op in MOE_OPS:  # gate and up, then down: [h, 2f] and [f, h] for each of topK copies
        forward = 3 * product * case.topk
        return forward if case.op == "moe" else 3 * forward
    return 0


def bytes_moved(case: Case, iterations: int = 0) -> int:
    """Bytes that must move in one call; 0 where only the host's time is asked.

    ``iterations``: of sinkhorn, 0 where they are not known.
    """
    if case.op in GEMM_OPS:
        return _gemm_bytes(case)
    if case.op in MOVE_OPS:
        return _move_bytes(case)
    if case.op in ROUTE_OPS:
        return route_bytes(case)
    size = ELEMENT_BYTES[case.dtype]
    if case.op in OPTION_OPS:
        return option_rows(case) * case.hidden * size
    if case.op == "sinkhorn":  # unknown: read once, written once
        return (iterations or 2) * case.tokens * case.experts * size
    if case.op in MOE_OPS:
        weights = 3 * case.experts * case.k * case.n * size
        activations = case.tokens * case.k * size
        if case.op == "moe":
            return weights + 2 * activations
        return 3 * weights + 4 * activations  # weights twice, their gradients; x, y, dy, dx
    return 0


def _gemm_bytes(case: Case) -> int:
    size = ELEMENT_BYTES[case.dtype]
    out_size = size if case.out == "same" else 4
    x, y = case.tokens * case.k, case.tokens * case.n
    matrix = case.k * case.n
    busy = sum(rows > 0 for rows in group_sizes(case.sizes, case.experts, case.tokens, case.seed))
    if case.op == "fwd":  # weights of an empty group need not be read
        return size * (x + busy * matrix) + out_size * y
    if case.op == "dgrad":
        return size * (y + busy * matrix) + out_size * x
    if case.op == "wgrad":
        if case.out == "acc":  # an empty group's part is neither read nor written
            return size * (x + y) + 2 * out_size * busy * matrix
        return size * (x + y) + out_size * case.experts * matrix
    forward = size * (x + busy * matrix + y)
    return forward + size * (x + y + busy * matrix) + size * (x + case.experts * matrix)


def _move_bytes(case: Case) -> int:
    """Rows only: ids, maps and probs are a per mille of them, except for the map alone."""
    slots = case.tokens * case.topk
    if case.op == "map":
        return slots * (ID_BYTES + MAP_BYTES)
    row = case.hidden * ELEMENT_BYTES[case.dtype]
    if case.op == "unpermute_bwd" and case.probs:  # gradient read once, rows read, rows written
        return (case.tokens + 2 * slots) * row
    return (case.tokens + slots) * row


def floor_ms(
    case: Case, dense_ms: float | None, copy_bytes_per_s: float | None, iterations: int = 0
) -> float | None:
    """The least time, ms: of the products at dense speed and of the bytes at copy speed.

    ``dense_ms`` is the time of the dense product with the case's FLOPs in the same mode;
    ``iterations`` those of sinkhorn. None where a rate that the case needs was not measured.
    """
    bounds = []
    if flops(case):
        if dense_ms is None:
            return None
        bounds.append(dense_ms)
    num_bytes = bytes_moved(case, iterations)
    if num_bytes:
        if not copy_bytes_per_s:
            return None
        bounds.append(num_bytes / copy_bytes_per_s * 1e3)
    return max(bounds) if bounds else None
