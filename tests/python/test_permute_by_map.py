"""moe_permute by a ready row map: the results and gradients of the same ids."""

import pytest
import torch
from grouped_gemm import RowMap, moe_permute, moe_route
from support.compare import assert_all_zero, assert_same_bits
from support.routing import logits_of
from support.shapes import PERMUTE_DTYPES, random_activations

ALIGNMENTS = [1, 16, 128]


@pytest.mark.small
@pytest.mark.parametrize("align_size", ALIGNMENTS)
@pytest.mark.parametrize("dtype", PERMUTE_DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 7, 64])
def test_moe_permute_takes_the_map_for_the_ids(device, hidden, dtype, align_size):
    routed = moe_route(logits_of(75, 12, device), 3, return_row_map=True, align_size=align_size)
    x = random_activations(75, hidden, dtype, device)
    scales = torch.rand(75, 3, device=device)
    along = {"probs": routed.probs, "scales": scales}
    expected = moe_permute(x, routed.indices, num_experts=12, align_size=align_size, **along)
    for actual, wanted in zip(moe_permute(x, routed.row_map, **along), expected, strict=True):
        assert_same_bits(actual, wanted)
    alone = moe_permute(x, routed.row_map)
    assert alone.permuted_probs is None and alone.permuted_scales is None
    assert_same_bits(alone.permuted, expected.permuted)


@pytest.mark.parametrize("frozen", ["neither", "x", "probs"])
@pytest.mark.parametrize("align_size", ALIGNMENTS)
def test_its_gradients_are_those_of_the_ids(device, align_size, frozen):
    routed = moe_route(logits_of(75, 12, device), 3, return_row_map=True, align_size=align_size)
    grads = []
    for how in ({}, {"num_experts": 12, "align_size": align_size}):
        slots = routed.indices if how else routed.row_map
        x = torch.arange(75 * 8.0, device=device).view(75, 8).requires_grad_(frozen != "x")
        probs = routed.probs.detach().requires_grad_(frozen != "probs")
        result = moe_permute(x, slots, probs=probs, **how)
        weights = torch.arange(result.permuted.shape[0] * 1.0, device=device)
        loss = (result.permuted * weights[:, None]).sum() + (result.permuted_probs * weights).sum()
        wanted = [t for t in (x, probs) if t.requires_grad]
        grads.append(torch.autograd.grad(loss, wanted))
    for actual, expected in zip(*grads, strict=True):
        assert_same_bits(actual, expected)


def test_a_map_of_moe_permute_itself_with_drops_goes_round_again(device):
    x = random_activations(75, 8, torch.float32, device)
    ids = torch.randint(-1, 8, (75, 3), device=device)
    first = moe_permute(x, ids, num_experts=6, align_size=16)
    again = moe_permute(x, RowMap(first.row_id_map, first.tokens_per_expert, first.offs, 16))
    assert_same_bits(again.permuted, first.permuted)


def test_a_map_of_garbage_reads_and_writes_nothing_outside(device):
    x = random_activations(75, 8, torch.float32, device)
    choices = torch.tensor([-(2**31), -1, 0, 5, 149, 150, 2**31 - 1], dtype=torch.int32)
    for _ in range(3):
        row_id_map, counts, ends = (
            choices[torch.randint(0, len(choices), shape)].to(device)
            for shape in ((2, 75), (6,), (6,))
        )
        probs = torch.rand(75, 2, device=device)
        for align_size in (1, 16):
            result = moe_permute(x, RowMap(row_id_map, counts, ends, align_size), probs=probs)
            named = row_id_map[(row_id_map >= 0) & (row_id_map < result.permuted.shape[0])].unique()
            rest = torch.ones(result.permuted.shape[0], dtype=torch.bool, device=device)
            rest[named.long()] = False
            assert_all_zero(result.permuted_probs[rest])


REFUSED = [
    ({"num_experts": 9}, r"moe_permute: num_experts got 9 beside a row map; needs 8"),
    ({"topk": 3}, r"moe_permute: topk got 3 beside a row map; needs 2"),
    ({"align_size": 8}, r"moe_permute: align_size got 8 beside a row map; needs 16"),
    ({"capacity": 4}, r"moe_permute: capacity got 4 beside a row map; needs None"),
    ({"drop_policy": "probs"}, r"moe_permute: drop_policy got 'probs' beside a row map"),
    ({"probs": torch.rand(10, 3)}, r"moe_permute: probs got shape \[10, 3\]; needs \[10, 2\]"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_an_option_that_a_map_leaves_no_room_for_is_named(device, change, message):
    routed = moe_route(logits_of(10, 8, device), 2, return_row_map=True, align_size=16)
    change = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    with pytest.raises((ValueError, RuntimeError), match=message):
        moe_permute(torch.zeros(10, 4, device=device), routed.row_map, **change)


def test_a_map_that_does_not_fit_is_named(device):
    x = torch.zeros(10, 4, device=device)
    good = moe_route(logits_of(10, 8, device), 2, return_row_map=True).row_map
    with pytest.raises(RuntimeError, match=r"moe_permute: row_id_map got shape \[2, 10\]; needs"):
        moe_permute(x[:5], good)
    with pytest.raises(RuntimeError, match=r"moe_permute: row_id_map got dtype int64"):
        moe_permute(x, good._replace(row_id_map=good.row_id_map.long()))
    with pytest.raises(RuntimeError, match=r"moe_permute: tokens_per_expert got shape \[5\]"):
        moe_permute(x, good._replace(tokens_per_expert=good.tokens_per_expert[:5]))
    with pytest.raises(RuntimeError, match=r"moe_permute: align_size got 0; needs 1"):
        moe_permute(x, good._replace(align_size=0))
