"""Which path an operator takes and why, as the library's own plans tell it; needs no GPU.

`info`, a benchmark's rows and these tests read the one function that makes the plan of a real call
(src/torch/explain.cc), for devices that are here and for made-up ones.
"""

import ctypes
import pathlib
import re

import grouped_gemm
import pytest
import torch
from grouped_gemm import __main__ as main
from grouped_gemm import _library
from grouped_gemm.bench import cases, catalogue, paths, protocol, results
from grouped_gemm.bench.paths import Where, explain
from grouped_gemm.bench.peers.ours import Ours
from grouped_gemm.bench.session import Session

SHAPE = {"dtype": torch.bfloat16, "tokens": 65536, "k": 1024, "n": 2048, "experts": 8}
CPU, SM80, SM90 = Where("cpu"), Where.named("sm80"), Where.named("sm90")
HAS_CUDA = _library.library_path(_library.CUDA_LIBRARY) is not None
needs_cuda_library = pytest.mark.skipif(not HAS_CUDA, reason="the CUDA library is not built")


def built_for_sm90():
    info = _library.library_info(_library.library_path(_library.CUDA_LIBRARY))
    return "90a" in info.architectures


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("GG_FORCE_PATH", raising=False)


@pytest.mark.parametrize("op", paths.GEMMS)
def test_the_cpu_takes_its_parallel_path(op):
    name = "gmm_wgrad" if op == "gmm_wgrad" else "gmm"
    assert explain(op, CPU, **SHAPE).startswith(f"{name} parallel ")


@needs_cuda_library
@pytest.mark.parametrize("op", paths.GEMMS)
def test_an_a100_takes_the_best_path_it_has(op):
    text = explain(op, SM80, **SHAPE)
    if "because" in text:
        assert text.endswith("because this build has no kernels for architecture 8.0 or newer")
    else:
        assert " sm80 tile=128x256x64 stages=3 blocks<=108 " in text


@needs_cuda_library
@pytest.mark.parametrize("op", paths.GEMMS)
def test_a_turing_multiplies_float16_on_tensor_cores_and_says_why_not_bfloat16(op):
    half, t4 = {**SHAPE, "dtype": torch.float16}, Where.named("sm75")
    if " sm75 tile=" not in explain(op, t4, **half):
        pytest.skip("needs a build for architecture 7.5")
    assert "because" not in explain(op, t4, **half)
    assert explain(op, t4, **SHAPE).endswith("because the operands are not float16")


@needs_cuda_library
@pytest.mark.parametrize("layout", [True, False], ids=["nk", "kn"])
@pytest.mark.parametrize("op", paths.GEMMS)
def test_a_hopper_takes_its_own_path_or_says_that_it_is_not_built(op, layout):
    text = explain(op, SM90, **SHAPE, trans_b=layout)
    if built_for_sm90():
        assert " sm90 tile=" in text and "because" not in text
        assert "blocks<=132 " in text  # one for each multiprocessor
    else:
        assert text.endswith("because this build has no kernels for architecture 90a")


REFUSED = [  # (operator, what is unusual about the shape, words of the reason)
    ("gmm", {"k": 1020}, "the distance of a's rows is not a multiple of 16 bytes"),
    ("gmm_dgrad", {"n": 1020}, "the distance of a's rows is not a multiple of 16 bytes"),
    ("gmm_wgrad", {"n": 1020}, "the distance of dy's rows is not a multiple of 16 bytes"),
    ("gmm", {"n": 1020, "trans_b": False}, "b has no contiguous dimension"),
    ("gmm", {"dtype": torch.float32}, "the operands are float32, and it is not allowed"),
    ("gmm", {"experts": 0}, "there are no groups"),
]


@needs_cuda_library
@pytest.mark.parametrize(("op", "change", "words"), REFUSED)
def test_what_a_hopper_cannot_run_goes_to_another_path_with_the_reason(op, change, words):
    if not built_for_sm90():
        pytest.skip("needs a build for architecture 90a")
    text = explain(op, SM90, **{**SHAPE, **change})
    assert " sm90 " not in text and words in text.partition(" because ")[2]


@needs_cuda_library
def test_a_device_with_too_little_shared_memory_is_told_apart_by_its_limits():
    if not built_for_sm90():
        pytest.skip("needs a build for architecture 90a")
    small = Where.named("sm90,132,65536")
    assert "too little shared memory" in explain("gmm", small, **SHAPE)


@needs_cuda_library
def test_the_permutation_and_sinkhorn_are_planned_for_gpus_too():
    move = {"dtype": torch.bfloat16, "tokens": 64, "topk": 8, "k": 2048, "experts": 128}
    for op in paths.MOVES:
        plan = explain(op, SM80, **move, probs=True)
        assert plan.startswith(op.removesuffix("_bwd") + " ") and "vector=16B" in plan
    odd = explain("unpermute", SM80, **{**move, "k": 2049})
    assert "vector=2B" in odd
    assert explain("sinkhorn", SM80, dtype=torch.float32, tokens=64, experts=8).startswith(
        "sinkhorn portable blocks="
    )


def test_what_an_operator_takes_nowhere_is_told_in_its_own_words():
    integers = {**SHAPE, "dtype": torch.int32}
    assert re.match(r"none: gmm: a got (dtype )?int32", explain("gmm", CPU, **integers))
    old = explain("gmm", Where.named("sm60,56,49152"), **SHAPE)
    assert old.startswith("none: gmm: ") and "compute capability 6.0; needs 7.0 or more" in old
    assert explain("matmul", CPU, **SHAPE).startswith("none: explain: op got 'matmul'")
    assert "got a size of -1" in explain("gmm", CPU, **{**SHAPE, "tokens": -1})


@pytest.mark.skipif(HAS_CUDA, reason="this build has the CUDA part")
def test_a_build_for_the_cpu_says_so_of_every_gpu():
    assert "this one has the CPU part only" in explain("gmm", SM90, **SHAPE)


def test_a_library_of_another_version_is_refused_before_it_misreads_the_question():
    library = _library.open_library(_library.library_path(_library.CPU_LIBRARY))
    question = paths._Question(struct_bytes=8)
    text = ctypes.create_string_buffer(64)
    assert library.grouped_gemm_explain(ctypes.byref(question), text, ctypes.c_int64(64)) == 1
    assert text.value.startswith(b"explain: got a question of 8 bytes; needs ")
    assert len(text.value) == 63  # cut to what there is room for, and ended


def test_the_environment_forces_a_path_in_the_plan_as_in_a_call(monkeypatch):
    monkeypatch.setenv("GG_FORCE_PATH", "reference")
    assert explain("gmm", CPU, **SHAPE).startswith("gmm reference ")
    lines = paths.path_lines(devices=[CPU])
    assert lines[0] == "GG_FORCE_PATH is set to reference"
    monkeypatch.setenv("GG_FORCE_PATH", "nothing")
    assert "GG_FORCE_PATH got 'nothing'" in explain("gmm", CPU, **SHAPE)


# ---- who reads it ------------------------------------------------------------


def test_a_benchmarks_rows_carry_the_text_of_the_same_function():
    budget = protocol.Budget(1, 0.01, windows=0, lead_seconds=0.0)
    small = (4, 70, 48, 40)
    chosen = [
        cases.gemm_case("wgrad", "small", small, "random", "bf16", "all", "kn", "acc"),
        cases.gemm_case("train", "small", small, "random", "fp32", "all"),
        cases.move_case("permute_bwd", (50, 2, 16, 5), "bf16", "all"),
        cases.Case("sinkhorn/64x8/fp32", "sinkhorn", "fp32", "all", 8, 64),
    ]
    found = results.Results({})
    session = Session(torch.device("cpu"), [Ours()], budget, found)
    for case in chosen:
        session.block([case], budget)
    told = {row.case.op: row.plans["ours"] for row in found.rows}
    shape = {"dtype": torch.float32, "tokens": 70, "k": 48, "n": 40, "experts": 4}
    assert told["train"] == "; ".join(explain(op, CPU, **shape) for op in paths.GEMMS)
    assert told["wgrad"] == explain("gmm_wgrad", CPU, **shape)
    assert told["permute_bwd"].startswith("unpermute parallel ")
    assert told["sinkhorn"].startswith("sinkhorn parallel ")


@needs_cuda_library
def test_every_case_of_the_benchmarks_has_a_plan_on_a_hopper_or_none_to_tell():
    # What travels along with a permutation is not among the questions that `explain` takes.
    silent = (*cases.MOE_OPS, *cases.OPTION_OPS, "host")
    for case in catalogue.all_cases("cuda"):
        text = paths.explain_case(case, SM90)
        assert "none: " not in text, (case.name, text)
        assert bool(text) == (case.op not in silent), case.name


def test_info_explains_shapes_on_devices_that_are_not_here(capsys):
    shape = ["--gmm", "65536,2048,1536,128,bf16", "--layout", "kn", "--out", "fp32"]
    assert main.main(["info", *shape, "--accumulate", "--device", "cpu", "--device", "sm90"]) == 0
    shown = capsys.readouterr().out
    assert "T=65536 K=2048 N=1536 E=128 bfloat16 into float32 weights [E, K, N]" in shown
    assert "cpu gmm_wgrad: gmm_wgrad parallel " in shown and "sm90 gmm: " in shown
    assert main.main(["info", "--permute", "16384,8,2048,128,fp8", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "T=16384 topK=8 h=2048 E=128 float8_e4m3fn" in shown and "unpermute_bwd: " in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gmm", "1,2"], "--gmm got '1,2'; needs T,K,N,E,DTYPE"),
        (["--gmm", "1,2,3,4,int8"], "--gmm got '1,2,3,4,int8'; needs"),
        (["--permute", "1,2,3,x,bf16"], "--permute got '1,2,3,x,bf16'; needs T,topK,h,E,DTYPE"),
        (["--device", "sm61"], "--device got 'sm61'; needs cpu, cuda:0, one of sm70"),
        (["--device", "tpu"], "--device got 'tpu'; needs"),
    ],
)
def test_a_question_that_cannot_be_read_is_one_line(arguments, words, capsys):
    assert main.main(["info", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


def test_nothing_in_python_repeats_the_rules():
    folder = pathlib.Path(grouped_gemm.__file__).parent
    text = (folder / "bench" / "paths.py").read_text()
    assert not re.search(r"(portable|parallel|get_device_capability|% 8)", text)
