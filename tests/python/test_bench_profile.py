"""What `bench profile` makes of Nsight Compute's output: three forms of CSV, units, gaps, refusals.

The columns, captions and spellings of units are those of ncu 2022 to 2025.
"""

import os
import stat

import pytest
from grouped_gemm import __main__ as main
from grouped_gemm.bench import ncu, profile

OWN = ["ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream",
       "Block Size", "Grid Size", "Device", "CC"]  # fmt: skip
SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
MEMORY = "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed"
DRAM = "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed"
ACTIVE = "sm__warps_active.avg.pct_of_peak_sustained_active"
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
GEMM = "void gg::cuda::sm90::m_grouped<gg::cuda::sm90::GeneralPolicy, __nv_bfloat16>(Args)"


def line(*cells):
    return ",".join(f'"{cell}"' for cell in cells) + "\n"


def own(index, name):
    return [
        index,
        4242,
        "python3.12",
        "127.0.0.1",
        name,
        1,
        7,
        "(384, 1, 1)",
        "(132, 1, 1)",
        0,
        9.0,
    ]


RAW_COLUMNS = {  # metric: (unit, of the GEMM, of the copy)
    "dram__bytes.sum.per_second": ("byte/s", "2,000,000,000,000", "n/a"),
    "dram__bytes_read.sum": ("byte", "100,000,000", "60,000,000"),
    "dram__bytes_write.sum": ("byte", "50,000,000", "15,000,000"),
    DRAM: ("%", "20", "91"),
    MEMORY: ("%", "40.20", "92"),
    "gpu__time_duration.sum": ("ns", "75,000", "25,000"),
    "launch__block_size": ("", "384", "256"),
    "launch__grid_size": ("", "132", "4,096"),
    "launch__registers_per_thread": ("register/thread", "168", "32"),
    "launch__waves_per_multiprocessor": ("", "1", "3.88"),
    "sm__maximum_warps_per_active_cycle_pct": ("%", "18.75", "100"),
    SM: ("%", "85.10", "10"),
    ACTIVE: ("%", "12.50", "80"),
    STALL.format("barrier"): ("inst", "0.50", "0"),
    STALL.format("long_scoreboard"): ("inst", "2.25", "9"),
    STALL.format("long_scoreboard_not_issued"): ("inst", "2.20", "9"),
    STALL.format("not_selected"): ("inst", "0.10", "0"),
    STALL.format("selected"): ("inst", "1", "1"),
}
PROLOGUE = """==PROF== Connected to process 4242 (/usr/bin/python3.12)
==PROF== Profiling "m_grouped" - 0: 0%....50%....100% - 19 passes
a line of the program itself, with a stray " in it
==PROF== Disconnected from process 4242
"""
RAW = (
    PROLOGUE
    + line(*OWN, *RAW_COLUMNS)
    + line(*[""] * len(OWN), *(unit for unit, _, _ in RAW_COLUMNS.values()))
    + line(*own(0, GEMM), *(value for _, value, _ in RAW_COLUMNS.values()))
    + line(*own(1, "copy_kernel(float*, int)"), *(value for _, _, value in RAW_COLUMNS.values()))
)


def test_the_summary_says_what_bounds_each_kernel_and_why(tmp_path, capsys):
    path = tmp_path / "ncu.csv"
    path.write_text(RAW)
    assert main.main(["bench", "profile", "--csv", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "2 kernels, 100.0 us" in shown
    first, second = shown.split("copy_kernel")
    assert "m_grouped<cuda::sm90::GeneralPolicy, __nv_bfloat16>(Args): 75.0 us (75 %)" in first
    assert "bound by compute" in first and "DRAM 20 % at 2000 GB/s" in first
    assert "occupancy 12 % of 19 % possible; registers 168, threads 384, blocks 132" in first
    stalls = "stalls, warps per issue: long_scoreboard 2.25, barrier 0.50, not_selected 0.10\n"
    assert stalls in first
    assert "bound by memory" in second and "at 3000 GB/s" in second  # 75 MB in 25 us
    assert "blocks 4096, waves 3.88" in second and "not reported" not in shown


LONG = [*OWN, "Section Name", "Metric Name", "Metric Unit", "Metric Value"]


def test_metrics_by_name_are_read_in_whatever_unit_they_come():
    name, by_name = "wgrad(Args)", "Command line profiler metrics"
    text = PROLOGUE + line(*LONG)
    for metric, unit, value in [
        ("gpu__time_duration.sum", "ms", "1.25"),
        ("dram__bytes_read.sum", "Gbyte", "1.5"),
        ("dram__bytes_write.sum", "Mbyte", "1,000.00"),
        (MEMORY, "%", "72"),
        (SM, "", "n/a"),
        ("smsp__warp_issue_stalled_math_pipe_throttle_per_warp_active.pct", "%", "41.5"),
    ]:
        text += line(*own(0, name), by_name, metric, unit, value)
    text += line(*own(0, name), by_name, "no metric of ours", "", "7")
    (kernel,) = ncu.read_kernels(text)
    assert kernel.metrics["gpu__time_duration.sum"] == pytest.approx(1.25e-3)
    assert kernel.unavailable == [SM]
    shown = profile.summary(text)
    assert "wgrad(Args): 1250.0 us (100 %)" in shown and "at 2000 GB/s" in shown
    assert "stalls, of the warps: math_pipe_throttle 42 %" in shown
    assert "bound by unknown" in shown
    missing = next(row for row in shown.splitlines() if "not reported:" in row)
    assert SM in missing and "launch__block_size" in missing and MEMORY not in missing


def test_the_details_page_is_understood_by_section_and_caption():
    rules = ["Rule Name", "Rule Type", "Rule Description"]
    text = line(*LONG, *rules)
    light, work = "GPU Speed Of Light Throughput", "Memory Workload Analysis"
    for section, caption, unit, value in [
        (light, "SM Frequency", "Ghz", "1.75"),
        (light, "Memory Throughput", "%", "88.1"),
        (light, "Compute (SM) Throughput", "%", "33.0"),
        (light, "Duration", "usecond", "62.5"),
        (work, "Memory Throughput", "Tbyte/s", "2.5"),
        ("Launch Statistics", "Grid Size", "", "264"),
        ("Launch Statistics", "Registers Per Thread", "register/thread", "96"),
        ("Occupancy", "Achieved Occupancy", "%", "44.9"),
    ]:
        text += line(*own(0, "permute(Rows)"), section, caption, unit, value, "", "", "")
    text += line(
        *own(0, "permute(Rows)"), "SpeedOfLight", "", "", "", "Bottleneck", "OPT", "words, 9"
    )
    shown = profile.summary(text)
    assert "permute(Rows): 62.5 us" in shown and "bound by memory" in shown
    assert "compute 33 %, memory 88 %" in shown and "at 2500 GB/s" in shown
    assert "registers 96, blocks 264" in shown and "occupancy 45 %" in shown


def test_two_processes_with_headers_of_their_own_are_not_mixed_up():
    second = line(*OWN, SM) + line(*[""] * len(OWN), "%")
    second += line(0, 9999, *own(0, "other")[2:], "12")
    kernels = ncu.read_kernels(RAW + second)
    assert [k.name.split("(")[0].split("<")[0] for k in kernels][1:] == ["copy_kernel", "other"]
    assert kernels[2].metrics == {SM: 12.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,234.5", 1234.5), ("1,234,567", 1234567.0), ("0.25", 0.25), ("9,05", 9.05),
     ("1\u202f234", 1234.0), ("n/a", None), ("", None), ("(384, 1, 1)", None)],
)  # fmt: skip
def test_numbers_are_read_with_the_separators_of_any_language(text, value):
    assert ncu.number(text) == value


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("ns", 1e-9), ("nsecond", 1e-9), ("us", 1e-6), ("msecond", 1e-3), ("second", 1.0),
     ("byte", 1.0), ("Kbyte", 1e3), ("Mibyte", 2.0**20), ("Gbyte/s", 1e9),
     ("Gbyte/second", 1e9), ("byte/ms", 1e3), ("Kbyte/block", 1e3), ("%", 1.0),
     ("register/thread", 1.0), ("inst", 1.0), ("Ghz", 1e9), ("", 1.0)],
)  # fmt: skip
def test_units_are_converted_to_seconds_bytes_and_plain_numbers(unit, factor):
    assert ncu.scale(unit) == pytest.approx(factor)


def test_bounds_are_told_apart():
    assert profile.bound(30, 40).startswith("latency")
    assert profile.bound(80, 85) == "compute and memory alike"
    assert profile.bound(None, 85).startswith("unknown")


@pytest.mark.parametrize(
    ("text", "words"),
    [("nothing", "no header"), (line(*OWN, SM), "a header and no kernel"), ("", "no header")],
)
def test_a_file_that_is_no_profile_says_so(text, words, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert main.main(["bench", "profile", "--csv", str(path)]) == 2
    assert words in capsys.readouterr().err
    assert main.main(["bench", "profile", "--csv", str(tmp_path / "none.csv")]) == 2
    assert "none.csv, No such file" in capsys.readouterr().err


# ---- running ncu: a script in its place --------------------------------------


@pytest.fixture
def fake_ncu(tmp_path, monkeypatch):
    def put(output, status=0):
        script, text = tmp_path / "ncu", tmp_path / "output.txt"
        text.write_text(output)
        script.write_text(
            f'#!/bin/sh\necho "$LC_ALL $*" > {tmp_path}/arguments\ncat {text}\nexit {status}\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "arguments"

    return put


def test_ncu_is_run_on_one_case_with_clocks_as_they_are_and_its_csv_kept(
    fake_ncu, tmp_path, capsys
):
    arguments = fake_ncu(RAW)
    kept = tmp_path / "new" / "kept.csv"
    assert main.main(["bench", "profile", "fwd/olmoe-up/random/bf16", "--keep", str(kept)]) == 0
    assert kept.read_text() == RAW and "2 kernels" in capsys.readouterr().out
    given = arguments.read_text()
    assert given.startswith("C --clock-control none --profile-from-start off --csv --page raw ")
    assert "bench profile fwd/olmoe-up/random/bf16 --peer ours --inside" in given
    main.main(["bench", "profile", "fwd/olmoe-up/random/bf16", "--clock-control", "base"])
    assert "--clock-control base" in arguments.read_text()


@pytest.mark.parametrize(
    ("output", "status", "words"),
    [
        ("==PROF== x\n==ERROR== ERR_NVGPUCTRPERM - The user has no permission\nmore", 1,
         "needs the right to read the GPU's counters"),
        ("bench: --case no/such --op any got no case for cuda\n==ERROR== it returned 2", 2,
         "--case no/such"),
        ("==WARNING== No kernels were profiled.\n", 0, "No kernels were profiled"),
        ("", 1, "ncu said: nothing"),
    ],
)  # fmt: skip
def test_where_ncu_fails_its_words_and_the_remedy_are_one_line(
    output, status, words, fake_ncu, capsys
):
    fake_ncu(output, status)
    assert main.main(["bench", "profile", "fwd/olmoe-up/random/bf16"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("bench: ") and words in error and "\n" not in error
