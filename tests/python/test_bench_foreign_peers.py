"""The adapters of benchmarks/peers, each against a fake of its package with the real signatures.

Layouts, orders of arguments and forms of results must be right before a GPU sees them: each result
passes the instrument's own check. The old packages are folders, measured in processes of their
own, as in a run.
"""

import pathlib
import sys
import types

import pytest
import torch
from grouped_gemm.bench import checks, peers, protocol, results
from grouped_gemm.bench.cases import Case, gemm_case, move_case
from grouped_gemm.bench.operands import Operands
from grouped_gemm.bench.session import Session
from support import foreign_packages as fakes

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks" / "peers"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY = protocol.Budget(2, 0.01, windows=1, window_seconds=0.001, lead_seconds=0.0)
PACKAGES = ("transformer_engine", "deep_gemm", "quack", "sonicmoe")


@pytest.fixture(scope="module")
def adapters():
    return {peer.name: peer for peer in peers.load_adapters(FOLDER)}


@pytest.fixture
def install(monkeypatch):
    """install("a.b", name=value, ...): a module in sys.modules, with its parents."""

    def put(path, **contents):
        name, parent = "", None
        for part in path.split("."):
            name = f"{name}.{part}" if name else part
            if not isinstance(sys.modules.get(name), Fake):
                monkeypatch.setitem(sys.modules, name, Fake(name))
            if parent is not None:
                setattr(parent, part, sys.modules[name])
            parent = sys.modules[name]
        vars(parent).update(contents)

    return put


class Fake(types.ModuleType):
    __path__ = ()


def gemm(op, sizes="random", dtype="bf16", layout="nk", out="same"):
    return gemm_case(op, "small", (4, 70, 48, 40), sizes, dtype, "all", layout, out)


def move(op, probs=False, dtype="bf16"):
    return move_case(op, (50, 2, 16, 5), dtype, "all", probs)


MOVES = [
    move("map"),
    move("permute"),
    move("permute_bwd"),
    move("unpermute", True),
    move("unpermute"),
    move("unpermute_bwd", True),
    move("unpermute_bwd"),
]


def wrong(peer, case):
    """None, or what is wrong with the peer's result or why it does not support the case."""
    made = Operands(CPU).of(case)
    made.reset()
    call = peer.build(case, made)
    made.reset()
    result = getattr(peer, "answer", lambda *given: given[-1])(case, made, call())
    return peer.supports(case) or checks.complaint(case, made, result)


def test_absent_packages_are_named_with_the_reason(adapters, monkeypatch):
    for name in PACKAGES:
        for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)
    present, absent = peers.sort_out(adapters.values(), {}, CUDA)
    assert not present
    assert list(absent) == ["dg", "tgg", "fgg", "quack", "sonicmoe", "te", "te-index", "te-router"]
    for name in ("tgg", "fgg"):
        assert absent.pop(name) == f"needs --peer-path {name}=FOLDER"
    assert all(reason.startswith("not importable: ") for reason in absent.values())


def test_peers_for_gpus_are_absent_on_the_cpu_however_importable(adapters, install):
    install("transformer_engine.pytorch.triton.permutation", **fakes.te_functions(True))
    install("deep_gemm", m_grouped_bf16_gemm_nt_contiguous=1, k_grouped_bf16_gemm_tn_contiguous=1)
    install("quack.gemm_interface", gemm=fakes.quack_gemm)
    install("sonicmoe", moe_TC_softmax_topk_layer=fakes.sonic_layer)
    here = [peer for peer in adapters.values() if not getattr(peer, "process", False)]
    present, absent = peers.sort_out(here, {}, CPU)
    assert not present and set(absent.values()) == {"needs a CUDA device"}


def test_the_triton_files_alone_bring_te_but_not_te_index(adapters, install):
    install("transformer_engine.pytorch.triton.permutation")
    assert adapters["te"].available(CUDA) is None
    assert "moe_permute" in adapters["te-index"].available(CUDA)


# ---- the old packages, in processes of their own -----------------------------


@pytest.fixture
def old_folder(tmp_path):
    return fakes.write_old_package(tmp_path)


def measured(peer, folder, cases):
    """name of the case -> Row, measured in the peer's own process."""
    peer.folder = str(folder)
    found = results.Results({})
    bridges = [p for p in peers.builtin_peers() if p.name in ("dense", "copy")]
    session = Session(CPU, [*bridges, peer], TINY, found)
    try:
        for case in cases:
            session.block([case], TINY)
    finally:
        session.workers[0].close()
    return {row.case.name: row for row in found.rows}


def test_tgg_computes_three_passes_and_training_in_its_own_process(adapters, old_folder):
    layouts = [
        gemm(op, layout=layout) for op in ("fwd", "dgrad", "wgrad") for layout in ("nk", "kn")
    ]
    rows = measured(adapters["tgg"], old_folder, [*layouts, gemm("train"), move("permute")])
    left_out = rows.pop(move("permute").name).left_out
    assert left_out["tgg"] == "grouped GEMM only"
    for name, row in rows.items():
        assert row.timings["tgg"].refused is None and row.timings["tgg"].cold_ms, name
        assert row.bridges["tgg"].cold_ms and row.remarks["tgg"] == "sizes on the CPU"


def test_fgg_moves_and_balances_and_its_unwritten_wgrad_is_refused(adapters, old_folder):
    fgg = adapters["fgg"]
    sinkhorn = Case("sinkhorn/64x8/fp32", "sinkhorn", "fp32", "all", 8, 64)
    empty = gemm("wgrad", "alternate")
    cases = [gemm("fwd"), *(c for c in MOVES if not fgg.supports(c)), sinkhorn, empty]
    rows = measured(fgg, old_folder, cases)
    assert "NaN" in rows.pop(empty.name).timings["fgg"].refused
    assert len(rows) == 7
    said = rows[move("unpermute", True).name].remarks["fgg"]
    assert said.endswith("adds in the element type; checked with a rounding for each term")
    for name, row in rows.items():
        assert row.timings["fgg"].refused is None and row.timings["fgg"].steady_ms, name
        assert row.bridges["fgg"].cold_ms


def test_what_the_old_packages_cannot_do_is_left_out_with_the_reason(adapters):
    tgg, fgg = adapters["tgg"], adapters["fgg"]
    assert tgg.supports(gemm("fwd", dtype="fp16")) == "multiplies bf16 only"
    assert "dtype" in tgg.supports(gemm("wgrad", out="acc"))
    assert fgg.supports(move_case("permute", (50, 2, 129, 5), "bf16", "all")).endswith("16 bytes")
    assert fgg.supports(move("permute", dtype="fp8")) == "moves no fp8"
    assert "topK" in fgg.supports(move_case("unpermute", (50, 1, 16, 5), "bf16", "all", True))
    assert "indices" in fgg.supports(move_case("permute", (65536, 8, 8192, 8), "bf16", "all"))


def test_another_package_of_the_same_name_is_never_measured_by_mistake(
    adapters, tmp_path, monkeypatch
):  # the folder holds no grouped_gemm, so `import` finds ours
    monkeypatch.setattr(adapters["tgg"], "folder", tmp_path, raising=False)
    assert adapters["tgg"].available(CUDA).startswith("another grouped_gemm was imported: ")


# ---- packages that live beside ours ------------------------------------------


@pytest.mark.parametrize("with_padding", [False, True], ids=["2.11", "2.20"])
@pytest.mark.parametrize("case", MOVES, ids=[case.name for case in MOVES])
def test_te_by_mask_map(adapters, install, case, with_padding):
    install("transformer_engine.pytorch.triton.permutation", **fakes.te_functions(with_padding))
    assert wrong(adapters["te"], case) is None
    assert adapters["te"].remark(case).startswith("mask")


@pytest.mark.parametrize("case", MOVES, ids=[case.name for case in MOVES])
def test_te_by_index_map(adapters, install, case):
    install(
        "transformer_engine.pytorch",
        moe_permute=fakes.te_moe_permute,
        moe_unpermute=fakes.te_moe_unpermute,
    )
    peer = adapters["te-index"]
    assert peer.available(CUDA) is None
    # a sum in float32, but its gradient in autograd's order: float32 rows compare exactly
    case = move_case(case.op, (50, 2, 16, 5), "fp32", "all", case.probs)
    if peer.supports(case) is None:
        assert wrong(peer, case) is None
    else:
        assert case.op == "map" or (case.op.startswith("unpermute") and not case.probs)


@pytest.mark.parametrize("layout", ["nk", "kn"])
@pytest.mark.parametrize("op,out", [("fwd", "same"), ("dgrad", "same"), ("wgrad", "same"),
                                    ("wgrad", "acc"), ("wgrad", "fp32")])  # fmt: skip
@pytest.mark.parametrize("sizes", ["random", "alternate"])
def test_deepgemm(adapters, install, op, out, layout, sizes):
    install(
        "deep_gemm",
        get_m_alignment_for_contiguous_layout=lambda: fakes.ALIGNMENT,
        m_grouped_bf16_gemm_nt_contiguous=fakes.dg_nt,
        m_grouped_bf16_gemm_nn_contiguous=lambda a, b, d, m: fakes.dg_nt(
            a, b.transpose(1, 2), d, m
        ),
        k_grouped_bf16_gemm_tn_contiguous=fakes.dg_k_grouped,
    )
    assert adapters["dg"].available(CUDA) is None
    assert wrong(adapters["dg"], gemm(op, sizes, layout=layout, out=out)) is None


def test_an_old_deepgemm_is_absent_with_the_reason(adapters, install):
    install("deep_gemm", get_m_alignment_for_contiguous_layout=lambda: fakes.ALIGNMENT)
    assert adapters["dg"].available(CUDA).startswith("this version has no m_grouped_bf16_gemm_nt")


@pytest.mark.parametrize("layout", ["nk", "kn"])
@pytest.mark.parametrize("out", ["same", "fp32"])
@pytest.mark.parametrize("op", ["fwd", "dgrad", "wgrad"])
def test_quack(adapters, install, op, out, layout):
    install("quack.gemm_interface", gemm=fakes.quack_gemm)
    assert adapters["quack"].available(CUDA) is None
    assert wrong(adapters["quack"], gemm(op, "alternate", layout=layout, out=out)) is None


def test_what_a_compiler_raises_refuses_its_cell_alone(adapters, install):
    def refuse(*_, **__):
        raise AssertionError("varlen_m needs cute")

    install("quack.gemm_interface", gemm=refuse)
    found = results.Results({})
    Session(CPU, [peers.builtin_peers()[0], adapters["quack"]], TINY, found).block(
        [gemm("fwd")], TINY
    )
    (row,) = found.rows
    assert row.timings["quack"].refused == "failed: AssertionError: varlen_m needs cute"
    assert row.timings["ours"].steady_ms


@pytest.mark.parametrize("op", ["moe", "moe_train"])
def test_sonicmoe(adapters, install, op):
    install("sonicmoe", moe_TC_softmax_topk_layer=fakes.sonic_layer)
    install("sonicmoe.enums", ActivationType=types.SimpleNamespace(SWIGLU="swiglu"))
    peer = adapters["sonicmoe"]
    assert peer.available(CUDA) is None
    assert wrong(peer, Case("moe/small/bf16", op, "bf16", "all", 4, 20, 512, 64, topk=2)) is None
    assert peer.supports(Case("moe/odd/bf16", op, "bf16", "all", 4, 70, 256, 64, topk=2))


@pytest.mark.parametrize("op", ["route", "route_bwd"])
def test_transformer_engines_router(adapters, install, op):
    install(
        "transformer_engine.pytorch.router",
        fused_topk_with_score_function=fakes.te_fused_topk_with_score_function,
    )
    case = Case(f"{op}/50x3x16/fp32", op, "fp32", "all", 16, 50, topk=3)
    assert adapters["te-router"].available(torch.device("cuda")) is None
    assert wrong(adapters["te-router"], case) is None
    assert adapters["te-router"].supports(move("permute")) == "routing only"
