"""What a run leaves and what is made of it: JSON, statistics, compare, tables, plots, README."""

import copy
import pathlib

import pytest
from grouped_gemm.bench import floors, report, results, table
from grouped_gemm.bench.cases import Case, gemm_case, move_case
from grouped_gemm.bench.protocol import Timing
from grouped_gemm.bench.results import Results, Row

DENSE_MS = 1.0


def timing(ms, **more):
    return Timing([ms, ms * 1.01, ms * 0.99], [ms, ms * 1.01, ms * 0.99], **more)


def row(case, **ms):
    made = Row(case, floors.flops(case), floors.bytes_moved(case))
    made.timings = {name: timing(value) for name, value in ms.items()}
    made.floor_ms = {"cold": DENSE_MS, "steady": DENSE_MS}
    return made


@pytest.fixture
def fixture():
    """A run by hand: two products, a movement, a host call; ours takes 2 ms, the floor is 1."""
    numbers = (8, 4096, 512, 512)
    rows = [
        row(gemm_case("fwd", "a-up", numbers, "random", "bf16", "all"), ours=2, torch=3, dense=1),
        row(gemm_case("wgrad", "a-up", numbers, "random", "bf16", "all"), ours=2, torch=1, dense=1),
        row(move_case("permute", (64, 2, 128, 8), "bf16", "all"), ours=2, torch=4, copy=1),
    ]
    rows[0].timings["ours"].peak_bytes = 3 << 20
    rows[0].plans["ours"] = "gmm sm90 tile=256x128x64"
    host = Row(Case("host/gmm/bf16", "host", "bf16", "all", call="gmm offs"), 0, 0)
    host.timings = {"ours": Timing(host_ms=[0.017, 0.018, 0.019])}
    rows.append(host)
    return Results(
        environment={
            "device": "cuda",
            "device_name": "Test GPU",
            "torch": "2.11.0",
            "driver": "580.1",
            "toolkit": "13.0",
            "date": "2026-01-02 03:04 UTC",
            "source": "commit abc",
            "command": "python -m grouped_gemm bench",
            "clocks": {"clocks.sm": [1200.0, 1500.0, 1980.0]},
        },
        ceilings={
            "dense bf16": {"work": 2 * 8192**3, "unit": "FLOP", "timing": vars(timing(1.5))},
            "copy by a kernel": {"work": 1 << 30, "unit": "byte", "timing": vars(timing(0.4))},
        },
        rows=rows,
        thinned=["ours: 3 cold calls instead of 10 (2 cells)"],
        absent={"other": "not importable: no module"},
        seconds=12.0,
    )


def test_json_comes_back_as_it_went(fixture, tmp_path):
    first, second = tmp_path / "new" / "run.json", tmp_path / "again.json"
    fixture.write(first)
    back = Results.read(first)
    assert back.rows[0].timings["ours"].cold_ms == pytest.approx([2, 2.02, 1.98])
    assert [row.case for row in back.rows] == [row.case for row in fixture.rows]
    back.write(second)
    assert Results.read(second) == back and second.read_text() == first.read_text()


def test_json_holds_no_paths_of_the_machine_that_made_it(fixture, tmp_path):
    secret = "/home/someone/.venv/lib/python3.12"
    fixture.absent["fgg"] = f"another grouped_gemm was imported: {secret}/grouped_gemm/__init__.py"
    fixture.thinned.append(
        f"fwd/a: stopped: ImportError: {secret}/x.so: undefined symbol (in '/opt')"
    )
    fixture.rows[0].timings["torch"] = Timing(refused=f'failed: File "{secret}/a-b.py", line 3')
    fixture.rows[0].left_out["te"] = f"failed to build:{secret}/"
    fixture.rows[0].remarks["te"] = "24 n/a, 2 GB/s, see https://example.org/a/b"
    path = tmp_path / "run.json"
    fixture.write(path)
    text = path.read_text()
    assert "someone" not in text and "/opt" not in text and str(tmp_path) not in text
    back = Results.read(path)
    assert back.absent["fgg"] == "another grouped_gemm was imported: __init__.py"
    assert back.thinned[-1] == "fwd/a: stopped: ImportError: x.so: undefined symbol (in 'opt')"
    assert back.rows[0].timings["torch"].refused == 'failed: File "a-b.py", line 3'
    assert back.rows[0].left_out["te"] == "failed to build:python3.12"
    assert back.rows[0].remarks["te"] == "24 n/a, 2 GB/s, see https://example.org/a/b"
    assert back.rows[0].case.name == "fwd/a-up/random/bf16"


RESULTS = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_the_committed_results_can_be_read_and_hold_no_paths(path):
    assert Results.read(path).rows
    text = path.read_text()
    assert results.without_paths(text) == text


@pytest.mark.parametrize("text", ["no json", '{"format": 99}', None])
def test_a_file_that_is_no_run_is_an_error_that_names_it(text, tmp_path):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="bad.json"):
        Results.read(path)


def test_statistics_against_hand_computed_values(fixture):
    first = fixture.rows[0]
    assert results.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
    assert results.spread([1.0]) == 0
    assert results.median_ms(first.timings["ours"], "cold") == 2
    assert results.speed_ratio(first, "ours", "floor", "steady") == pytest.approx(0.5)
    assert results.speed_ratio(first, "ours", "torch", "steady") == pytest.approx(1.5)
    assert results.rate(first, "ours", "cold") == pytest.approx(2 * 4096 * 512 * 512 / 2e-3)
    assert results.rate(fixture.rows[2], "ours", "cold") == pytest.approx((64 + 128) * 256 / 2e-3)
    assert results.geometric_mean([1.0, 4.0, None]) == pytest.approx(2.0)
    assert results.geometric_mean([None]) is None


def test_compare_flags_what_is_slower_beyond_the_spread_cell_by_cell(fixture):
    after = copy.deepcopy(fixture)
    mine = after.rows[1].timings["ours"]
    mine.steady_ms = [ms * 1.10 for ms in mine.steady_ms]  # beyond 2 x 1 % of spread
    mine.cold_ms = [ms * 1.01 for ms in mine.cold_ms]  # within it
    changes, problems = results.compare(fixture, after)
    lines = table.change_lines(changes)
    assert "wgrad steady: geometric mean of the times 1.100 of before" in lines
    slower = [(c.case, c.mode) for c in changes if c.verdict == "slower"]
    assert slower == [("wgrad/a-up/random/bf16", "steady")] and not problems
    assert len(changes) == 7  # three cells in two modes, and the host's


def test_a_change_within_a_wide_spread_is_no_regression(fixture):
    after = copy.deepcopy(fixture)
    after.rows[0].timings["ours"].cold_ms = [1.8, 2.2, 2.6]  # 10 % slower, quartiles 18 % apart
    changes, _ = results.compare(fixture, after)
    assert {c.verdict for c in changes} == {"same"}


def test_compare_names_lost_and_refused_cells(fixture):
    after = copy.deepcopy(fixture)
    after.rows[0].timings["ours"] = Timing(refused="wrong: group 3")
    del after.rows[2]
    _, problems = results.compare(fixture, after)
    assert len(problems) == 2
    assert "wrong: group 3" in problems[0] and "not measured" in problems[1]


def test_runs_of_different_machines_are_compared_through_their_ceilings(fixture):
    after = copy.deepcopy(fixture)  # a machine half as fast
    for each in after.rows:
        for one in each.timings.values():
            one.cold_ms = [2 * ms for ms in one.cold_ms]
            one.steady_ms = [2 * ms for ms in one.steady_ms]
    changes, _ = results.compare(fixture, after, relative=True)
    assert all(c.ratio == pytest.approx(1.0) for c in changes)
    changes, _ = results.compare(fixture, after)
    assert sum(c.verdict == "slower" for c in changes) == 6


def test_a_machine_that_became_slower_is_told_beside_the_comparison(fixture):
    after = copy.deepcopy(fixture)
    assert table.machine_lines(fixture, after) == []
    dense = after.ceilings["dense bf16"]["timing"]
    dense["steady_ms"] = [2 * ms for ms in dense["steady_ms"]]
    (line,) = table.machine_lines(fixture, after)
    assert line.startswith("the machine is not as before: ceiling dense bf16 at 0.50 of its speed")


def test_tables_show_ratios_refusals_and_what_was_left_out(fixture):
    fixture.rows[1].timings["torch"] = Timing(refused="wrong: group 0")
    assert table.rate_text(fixture.rows[1], "torch", "cold") == "refused"
    assert table.rate_text(fixture.rows[3], "ours", "host") == "18 ±6%"
    layer = Case("moe/small/bf16", "moe", "bf16", "all", 8, 64, 32, 16, topk=2)
    fixture.rows.append(row(layer, ours=2, torch=3, dense=1))
    for name, peak in (("ours", 3 << 20), ("torch", 5 << 20), ("dense", 1 << 20)):
        fixture.rows[-1].timings[name].peak_bytes = peak
    for index in (0, 1):
        fixture.rows[index].left_out = {"te": "permutation only", "copy": "no products"}
        fixture.rows[index].plans["ours"] = "gmm portable tile=1x1x1 because K is odd"
    lines = "\n".join(table.summary_lines(fixture))
    wanted = "peak memory beyond operands: moe/small/bf16: ours 3 MiB, torch 5 MiB\n"
    assert wanted in lines
    assert "left out: te: permutation only (2 cases)" in lines and "no products" not in lines
    assert "another path: fwd/a-up/random/bf16 and 1 more: K is odd" in lines
    assert "fwd cold, geometric mean of our speed: 0.50 of floor, 1.50 of torch" in lines
    assert "refused: wgrad/a-up/random/bf16: torch: wrong: group 0" in lines
    assert "thinned: ours: 3 cold calls" in lines and "absent: other: not importable" in lines
    assert "ceiling dense bf16: 733 / 733 TFLOP/s" in lines
    assert table.run_table(fixture).row_count == 9


def test_report_writes_pages_plots_and_the_readme_from_json_alone(fixture, tmp_path):
    source = tmp_path / "results" / "gpu.json"
    fixture.write(source)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold figures\n{report.END}\nafter\n")
    assert report.main([str(source), "--readme", str(readme)]) == 0
    for name in ("gpu.md", "gpu-heat.png", "gpu-roofline.png", "gpu-peers.png"):
        assert (source.parent / name).stat().st_size > 500
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n") and text.endswith(f"{report.END}\nafter\n")
    assert "old figures" not in text and "Test GPU" in text and "1200 to 1980 MHz" in text
    assert "| forward | random | steady | 1.07 | 0.50 | 0.50 | 1.50 |" in text
    assert "| permute | steady |" in text and "(results/gpu-heat.png)" in text
    page = (source.parent / "gpu.md").read_text()
    assert "- fwd/a-up/random/bf16: `gmm sm90 tile=256x128x64`" in page
    assert "fwd/a-up/random/bf16" in page and "not importable" in page and "18 ±6%" in page
    again = readme.read_text()
    report.main([str(source), "--readme", str(readme)])
    assert readme.read_text() == again


def test_a_readme_without_markers_is_an_error_and_unchanged(fixture, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="bench:begin"):
        report.rewrite_readme(readme, fixture, tmp_path / "page.md", [])
    assert readme.read_text() == "no markers"
