"""Sinkhorn in the instrument: its floor counts the iterations that were made."""

import grouped_gemm
import pytest
import torch
from grouped_gemm.bench import floors, protocol
from grouped_gemm.bench.cases import Case
from grouped_gemm.bench.peers import builtin_peers
from grouped_gemm.bench.results import Results, median_ms
from grouped_gemm.bench.session import Session


def test_sinkhorns_floor_is_one_reading_of_the_input_in_each_iteration():
    case = Case("sinkhorn/131072x256/fp32", "sinkhorn", "fp32", "all", 256, 131072)
    assert floors.bytes_moved(case) == 2 * 134_217_728  # read and written, at the least
    assert floors.bytes_moved(case, iterations=6) == 805_306_368
    assert floors.floor_ms(case, None, 4e12, iterations=6) == pytest.approx(0.201327, rel=1e-5)


def test_a_run_asks_how_many_iterations_sinkhorn_made():
    case = Case("sinkhorn/64x8/fp32", "sinkhorn", "fp32", "all", 8, 64)
    results = Results({}, ceilings={})
    budget = protocol.Budget(1, 0.01, windows=1, window_seconds=0.001, lead_seconds=0.0)
    peers = [p for p in builtin_peers() if p.name in ("ours", "copy")]
    session = Session(torch.device("cpu"), peers, budget, results)
    session.block([case], budget)
    (row,) = results.rows
    made = session.operands.of(case)
    _, info = grouped_gemm.sinkhorn(made.cost, return_info=True)
    assert row.iterations == int(info.iterations) > 1
    assert row.bytes == row.iterations * 64 * 8 * 4
    copy_ms = median_ms(row.timings["copy"], "cold")  # of 2 * 64 * 8 * 4 bytes
    assert row.floor_ms["cold"] == pytest.approx(copy_ms * row.iterations / 2)
    assert f"{row.iterations} iterations" in row.remarks["ours"]
