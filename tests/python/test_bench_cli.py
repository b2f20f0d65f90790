"""The command line on the CPU with tiny budgets."""

import pathlib

import pytest
from grouped_gemm import __main__ as main
from grouped_gemm.bench import cli, environment, protocol
from grouped_gemm.bench.results import Results

TINY = protocol.Budget(2, 0.01, windows=1, window_seconds=0.002, lead_seconds=0.0)
CASES = ["--case", "fwd/laptop-fine-down/random/fp32", "--case", "map/*", "--op", "fwd"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(protocol, "CPU", TINY)
    monkeypatch.setattr("grouped_gemm.bench.ceilings.SIDE", {"cpu": 64})
    monkeypatch.setattr("grouped_gemm.bench.ceilings.BUFFER_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr("grouped_gemm.bench.clock.FLUSH_BYTES", {"cpu": 1 << 20})


def bench(*arguments):
    return main.main(["bench", *arguments])


def test_bench_measures_on_a_machine_without_a_gpu(tmp_path, capsys):
    path = tmp_path / "run.json"
    assert bench("--device", "cpu", "--plain", *CASES, "--json", str(path)) == 0
    shown = capsys.readouterr().out
    assert "fwd/laptop-fine-down/random/fp32" in shown and "ceiling copy" in shown
    found = Results.read(path)
    (row,) = found.rows
    assert set(row.timings) == {"ours", "loop", "dense"} and row.floor_ms["steady"] > 0
    assert row.left_out["torch"] == "grouped_mm computes bf16 only"
    assert found.environment["device"] == "cpu" and "sources" in found.environment["source"]
    again = bench("--device", "cpu", *CASES, "--peer", "dense", "--against", str(path))
    assert again in (0, 1)  # a machine's noise decides
    assert "cells compared" in capsys.readouterr().out


def test_compare_and_report_are_commands(tmp_path, capsys):
    path = tmp_path / "run.json"
    bench("--device", "cpu", "--plain", *CASES, "--json", str(path))
    assert bench("compare", str(path), str(path)) == 0
    assert "0 slower, 0 lost" in capsys.readouterr().out
    assert bench("report", str(path)) == 0
    assert (tmp_path / "run.md").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--case", "no/such"], "--case no/such"),
        (["--op", "gmm"], "--op got 'gmm'; needs one of"),
        (["--device", "mps"], "--device got mps; needs cuda or cpu"),
        (["--peers", "/no/such/folder"], "--peers got /no/such/folder; needs a folder"),
        (["--peer", "nobody"], "peer got 'nobody'; needs one of ours, torch"),
        (["--window", "0"], "--window got 0.0; needs seconds"),
        (["--peer-path", "x"], "--peer-path got 'x'; needs NAME=FOLDER"),
        (["compare", "a.json", "b.json"], "a.json"),
        (["profile"], "profile got no case"),
    ],
)
def test_a_wrong_argument_is_one_line_that_says_what_is_needed(arguments, words, capsys):
    known = arguments[0] in ("compare", "profile")
    if not known and "--device" not in arguments:
        arguments = ["--device", "cpu", *arguments]
    assert bench(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("bench: ") and words in error and "\n" not in error


def test_list_prints_every_name(capsys):
    assert bench("list", "--device", "cuda") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "quick    fwd/qwen3-30b-up/random/bf16" in lines and len(lines) > 700


def test_the_command_kept_with_the_results_has_no_paths():
    kept = environment.command(["--quick", "--json", "/a/b.json", "--case", "fwd/*", "--peers=/x"])
    assert kept == "python -m grouped_gemm bench --quick --case 'fwd/*'"


def test_only_one_module_of_the_instrument_imports_the_package_under_test():
    folder = pathlib.Path(cli.__file__).parent
    importing = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*.py"))
        if any(
            line.strip().startswith(("import grouped_gemm", "from grouped_gemm."))
            and "grouped_gemm_bench" not in line
            for line in path.read_text().splitlines()
        )
    ]
    assert importing == ["peers/ours.py"]


def test_a_peer_that_only_its_name_brings_is_absent_with_that_reason(tmp_path):
    path = tmp_path / "run.json"
    assert bench("--device", "cpu", "--plain", *CASES, "--json", str(path)) == 0
    assert Results.read(path).absent["compile-fusable"] == "--peer compile-fusable has it"


def test_short_windows_have_short_lead_ins():
    budget = protocol.DEFAULT.of_window(0.025)
    assert (budget.window_seconds, budget.lead_seconds) == (0.025, pytest.approx(0.005))
    assert budget.settle_seconds == pytest.approx(0.02)
    assert protocol.DEFAULT.of_window(1.0).lead_seconds == protocol.DEFAULT.lead_seconds
