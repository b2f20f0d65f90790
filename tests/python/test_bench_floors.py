"""Cases, group sizes, FLOPs, bytes and floors of the benchmarks, against numbers worked by hand."""

import pytest
import torch
from grouped_gemm.bench import cases, floors, operands, sizes
from grouped_gemm.bench.cases import gemm_case, move_case
from grouped_gemm.bench.catalogue import MODELS, all_cases, projections, select

# E=4, T=10, K=3, N=5; balanced rows [3, 3, 2, 2], alternate rows [5, 0, 5, 0]
SMALL = (4, 10, 3, 5)


def gemm(op, kind="balanced", dtype="bf16", out="same"):
    return gemm_case(op, "small", SMALL, kind, dtype, "all", out=out)


@pytest.mark.parametrize("op", ["fwd", "dgrad", "wgrad"])
def test_a_product_counts_two_flops_for_each_of_t_k_n(op):
    assert floors.flops(gemm(op)) == 2 * 10 * 3 * 5
    assert floors.flops(gemm("train")) == 3 * 300


BYTES = [
    # x 10*3, four weights 3*5, y 10*5
    (gemm("fwd"), 2 * (30 + 60 + 50)),
    (gemm("dgrad"), 2 * (50 + 60 + 30)),
    (gemm("fwd", "alternate"), 2 * (30 + 30 + 50)),  # weights of empty groups are not read
    (gemm("fwd", dtype="fp32"), 4 * (30 + 60 + 50)),
    (gemm("fwd", out="fp32"), 2 * (30 + 60) + 4 * 50),
    (gemm("wgrad"), 2 * (30 + 50 + 60)),
    (gemm("wgrad", "alternate"), 2 * (30 + 50 + 60)),  # zeros are written too
    (gemm("wgrad", out="fp32"), 2 * (30 + 50) + 4 * 60),
    (gemm("wgrad", out="acc"), 2 * (30 + 50) + 8 * 60),  # 8 bytes a weight: read and written
    (gemm("wgrad", "alternate", out="acc"), 2 * (30 + 50) + 8 * 30),
    # T=6, topK=2, h=7, E=3: 12 rows
    (move_case("permute", (6, 2, 7, 3), "bf16", "all"), (6 + 12) * 7 * 2),
    (move_case("unpermute", (6, 2, 7, 3), "fp8", "all", probs=True), (6 + 12) * 7),
    (move_case("unpermute_bwd", (6, 2, 7, 3), "fp32", "all", probs=True), (6 + 24) * 7 * 4),
    (move_case("unpermute_bwd", (6, 2, 7, 3), "fp32", "all"), (6 + 12) * 7 * 4),
    (move_case("permute_with", (6, 2, 7, 3), "bf16", "all", call="probs"), (6 + 12) * 7 * 2),
    (move_case("unpermute_with", (6, 2, 7, 3), "bf16", "all", call="residual"), (12 + 12) * 7 * 2),
    (move_case("sort_chunks", (6, 1, 7, 3), "bf16", "all", call="rows"), (6 + 6) * 7 * 2),
    (move_case("map", (6, 2, 0, 3), "bf16", "all"), 12 * (8 + 4)),
]


@pytest.mark.parametrize(("case", "expected"), BYTES, ids=[case.name for case, _ in BYTES])
def test_bytes_that_must_move_are_those_counted_by_hand(case, expected):
    assert floors.bytes_moved(case) == expected


def test_a_layers_flops_are_three_products_a_copy_and_thrice_that_in_training():
    layer = cases.Case("moe/x/bf16", "moe", "bf16", "all", 8, tokens=10, k=4, n=6, topk=2)
    assert floors.flops(layer) == 10 * 2 * (2 * 4 * 12 + 2 * 6 * 4)  # up and gate, then down
    train = cases.Case("moe_train/x/bf16", "moe_train", "bf16", "all", 8, 10, 4, 6, topk=2)
    assert floors.flops(train) == 3 * floors.flops(layer)


def test_the_floor_is_the_longer_of_the_products_and_the_copy():
    case = gemm("fwd")  # 280 bytes
    assert floors.floor_ms(case, dense_ms=2.0, copy_bytes_per_s=280e3) == 2.0
    assert floors.floor_ms(case, dense_ms=0.5, copy_bytes_per_s=280e3) == pytest.approx(1.0)
    assert floors.floor_ms(case, dense_ms=None, copy_bytes_per_s=280e3) is None
    move = move_case("map", (6, 2, 0, 3), "bf16", "all")  # 144 bytes
    assert floors.floor_ms(move, None, 144e3) == pytest.approx(1.0)
    host = next(c for c in all_cases("cuda") if c.op == "host")
    assert floors.floor_ms(host, None, 1e9) is None


@pytest.mark.parametrize("kind", sizes.DISTRIBUTIONS)
@pytest.mark.parametrize(("experts", "tokens"), [(1, 0), (1, 7), (7, 100), (64, 2048), (5, 3)])
def test_groups_hold_every_token_and_are_the_same_every_time(kind, experts, tokens):
    rows = sizes.group_sizes(kind, experts, tokens)
    assert len(rows) == experts and sum(rows) == tokens and min(rows) >= 0
    assert rows == sizes.group_sizes(kind, experts, tokens)


def test_distributions_have_the_shapes_that_their_names_say():
    assert sizes.group_sizes("balanced", 4, 10) == [3, 3, 2, 2]
    assert sizes.group_sizes("alternate", 4, 10) == [5, 0, 5, 0]
    assert sorted(sizes.group_sizes("one-hot", 4, 10)) == [0, 0, 0, 10]
    skewed = sorted(sizes.group_sizes("skewed", 3, 110), reverse=True)
    assert skewed == [60, 30, 20]  # 1 : 1/2 : 1/3
    with pytest.raises(ValueError, match="sizes got 'even'; needs one of balanced"):
        sizes.group_sizes("even", 4, 10)


def test_a_token_visits_distinct_experts():
    ids = sizes.expert_ids(8, 100, 3)
    assert ids.shape == (100, 3) and int(ids.min()) >= 0 and int(ids.max()) < 8
    assert all(len(set(row)) == 3 for row in ids.tolist())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_case_names_are_unique_and_levels_nest(device):
    names = [case.name for case in all_cases(device)]
    assert len(set(names)) == len(names)
    quick, default, everything = (
        {case.name for case in select(device, level)} for level in cases.LEVELS
    )
    assert quick < default < everything == set(names)


def test_the_default_selection_is_what_the_readme_promises():
    chosen = {(c.op, c.shape, c.sizes) for c in select("cuda", "default") if c.op in "fwd"}
    shapes = projections(MODELS)
    kinds = ("balanced", "random", "skewed")
    assert chosen == {("fwd", shape, kind) for shape in shapes for kind in kinds}
    # gate and up beside each other: N = 2f
    assert shapes["qwen3-30b-up"] == (128, 65536, 2048, 1536)
    assert shapes["qwen3-30b-down"] == (128, 65536, 768, 2048)


WANTED = [  # op and what its name must hold
    *(("fwd", f"/{kind}/bf16") for kind in sizes.DISTRIBUTIONS),
    *((op, "/random/fp16") for op in ("fwd", "dgrad", "wgrad")),
    *((op, "small-m-up/random/bf16") for op in ("fwd", "dgrad", "wgrad")),
    ("fwd", "/random/bf16/kn"),
    ("wgrad", "/bf16/fp32"),
    ("wgrad", "/bf16/acc"),
    ("wgrad", "/fp16/acc"),
    ("train", "/random/bf16"),
    *((op, f"/32768x8x4096x128/{dtype}")
      for op in ("permute", "unpermute", "permute_bwd", "unpermute_bwd")
      for dtype in ("bf16", "fp32", "fp8")),
    ("permute", "/4096x2x1x8/"),
    ("unpermute", "/65536x8x2048x128/bf16/probs"),
    ("unpermute_bwd", "/8192x8x7168x256/bf16/probs"),
    ("map", "/4096x2x0x8/"),
    *(("permute_with", f"/{option}") for option in ("align128", "capacity", "routing-map")),
    ("unpermute_with", "/residual"),
    ("sort_chunks", "/probs"),
    ("sinkhorn", "/131072x256/"),
    ("moe", "/mixtral8x7b/"),
    ("moe_train", "/qwen3-30b/"),
    ("host", "/gmm-sizes-on-the-device/"),
    ("host", "/MoE-forward/"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "part"), WANTED, ids=["".join(pair) for pair in WANTED])
def test_every_kind_of_case_that_users_meet_is_among_all(op, part):
    assert any(part in case.name for case in all_cases("cuda") if case.op == op)


def test_patterns_and_ops_choose_and_a_miss_says_what_to_do():
    assert [c.name for c in select("cpu", "quick", patterns=["fwd/laptop-up/skewed/*"])] == [
        "fwd/laptop-up/skewed/fp32"
    ]
    assert {c.op for c in select("cpu", "all", ops=["sinkhorn"])} == {"sinkhorn"}
    with pytest.raises(ValueError, match="--case nothing/like/this .*bench list"):
        select("cpu", "all", patterns=["nothing/like/this"])
    with pytest.raises(ValueError, match="--op got 'gmm'; needs one of fwd"):
        select("cpu", "all", ops=["gmm"])


def test_operands_are_those_of_the_case_and_shared_between_passes():
    made = operands.Operands(torch.device("cpu"))
    forward = made.of(gemm("fwd"))
    assert forward.x.shape == (10, 3) and forward.w.shape == (4, 5, 3)
    assert forward.sizes.tolist() == [3, 3, 2, 2] and forward.offs.tolist() == [3, 6, 8, 10]
    assert made.of(gemm("wgrad", "alternate")).x is forward.x
    other_layout = made.of(gemm_case("fwd", "small", SMALL, "balanced", "bf16", "all", "kn"))
    assert other_layout.w.shape == other_layout.w_kn.shape == (4, 3, 5)
