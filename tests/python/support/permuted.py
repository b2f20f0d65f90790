"""What a routing says of moe_permute's result, worked out by loops."""

import torch

from support import reference
from support.compare import assert_same_bits


def groups_of(indices, num_experts):
    """The slots of each expert in order, worked out by a loop."""
    table = (indices if indices.dim() == 2 else indices.unsqueeze(1)).tolist()
    top_k = len(table[0]) if table else 1
    groups = [[] for _ in range(num_experts)]
    for t, row in enumerate(table):
        for k, expert in enumerate(row):
            if 0 <= expert < num_experts:
                groups[expert].append(t * top_k + k)
    return groups


def check(result, x, indices, groups, align_size=1, probs=None, scales=None):
    """Everything that a routing into these groups says of the result. Returns row -> slot."""
    tokens = indices.shape[0]
    top_k = indices.shape[1] if indices.dim() == 2 else 1
    slots, ends = [], []
    for group in groups:
        slots += group + [-1] * (-len(group) % align_size)
        ends.append(len(slots))
    assert len(slots) <= result.permuted.shape[0]
    slots += [-1] * (result.permuted.shape[0] - len(slots))
    expected_map = torch.full((top_k, tokens), -1, dtype=torch.int32)
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected_map[slot % top_k, slot // top_k] = row
    assert result.tokens_per_expert.tolist() == [len(group) for group in groups]
    assert result.offs.tolist() == ends
    assert torch.equal(result.row_id_map.cpu(), expected_map)
    source = [slot // top_k if slot >= 0 else -1 for slot in slots]
    assert_same_bits(result.permuted, reference.gather_rows(x, source), "permuted rows")
    if scales is not None:
        expected = reference.gather_rows(scales, source)
        assert_same_bits(result.permuted_scales, expected, "permuted scales")
    if probs is not None:
        expected = reference.gather_rows(probs.reshape(-1, 1), slots)[:, 0]
        assert_same_bits(result.permuted_probs, expected, "permuted probs")
    return slots
