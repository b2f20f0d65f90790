"""The protocol cannot be fooled: wrong results are refused, slow ones are seen, peers are kept out
or brought in with a reason. Tiny budgets; the CPU here, and CUDA where there is one."""

import itertools
import json

import pytest
import torch
from grouped_gemm.bench import checks, peers, protocol, results
from grouped_gemm.bench.cases import Case, gemm_case, move_case
from grouped_gemm.bench.clock import WallClock, make_clock
from grouped_gemm.bench.operands import Operands
from grouped_gemm.bench.peers.ceiling_peers import Copy, Dense
from grouped_gemm.bench.peers.ours import Ours
from grouped_gemm.bench.peers.torch_peers import Loop
from grouped_gemm.bench.permute_options import OPTIONS
from grouped_gemm.bench.session import Pace, Session

TINY = protocol.Budget(3, 0.05, windows=3, window_seconds=0.005, lead_seconds=0.0)
SMALL = (4, 200, 48, 40)


def gemm(op, kind="random", dtype="fp32", layout="nk", out="same"):
    return gemm_case(op, "small", SMALL, kind, dtype, "all", layout, out)


CHECKED = [
    *(
        gemm(op, kind)
        for op in ("fwd", "dgrad", "wgrad", "train")
        for kind in ("random", "one-hot")
    ),
    gemm("fwd", "alternate", "bf16", "kn"),
    gemm("dgrad", "skewed", "fp16"),
    gemm("wgrad", "alternate", "bf16", "kn", "fp32"),
    gemm("wgrad", "alternate", "bf16", "nk", "acc"),
    *(move_case("permute", (50, 2, 16, 5), dtype, "all") for dtype in ("bf16", "fp8")),
    *(
        move_case(op, (50, 2, 16, 5), dtype, "all", probs)
        for op in ("unpermute", "unpermute_bwd")
        for dtype in ("fp32", "bf16", "fp8")
        for probs in (True, False)
    ),
    move_case("permute_bwd", (50, 2, 16, 5), "bf16", "all"),
    move_case("map", (50, 2, 0, 5), "bf16", "all"),
    *(
        move_case(op, (50, 1 if op == "sort_chunks" else 2, 16, 5), "bf16", "all", call=option)
        for op, options in OPTIONS.items()
        for option in options
    ),
    Case("sinkhorn/64x8/fp32", "sinkhorn", "fp32", "all", 8, 64),
    Case("moe/small/fp32", "moe", "fp32", "all", 4, 40, 32, 16, topk=2),
    Case("moe_train/small/fp32", "moe_train", "fp32", "all", 4, 40, 32, 16, topk=2),
]


@pytest.mark.parametrize("case", CHECKED, ids=[case.name for case in CHECKED])
def test_our_right_results_pass_the_check(case, device):
    made = Operands(device).of(case)
    made.reset()
    assert checks.complaint(case, made, Ours().build(case, made)()) is None


class Planted:
    """Ours with something done to its result."""

    def __init__(self, name, spoil=lambda result: result):
        self.name, self.spoil = name, spoil

    def available(self, device):
        return None

    def supports(self, case):
        return None

    def build(self, case, made):
        call = Ours().build(case, made)
        return lambda: self.spoil(call())


def one_zero_tile(result):
    result[..., -8:, :8] = 0
    return result


def never_written(result):
    result.view(-1)[5] = float("nan")
    return result


def two_rows_swapped(result):
    flat = result.view(-1, result.shape[-1])
    flat[[0, -1]] = flat[[-1, 0]]
    return result


@pytest.mark.parametrize("spoil", [one_zero_tile, never_written, two_rows_swapped])
@pytest.mark.parametrize("op", ["fwd", "dgrad", "wgrad"])
def test_a_planted_wrong_implementation_is_refused_and_not_timed(op, spoil, device):
    case = gemm(op, dtype="bf16", kind="balanced")
    (timing,) = run([Planted("wrong", spoil)], case, device)
    assert timing.refused.startswith("wrong: ")
    assert not timing.cold_ms and not timing.steady_ms


def test_an_error_far_from_every_sampled_element_is_seen_by_the_projection():
    # the middle of the middle group, which elementwise samples do not visit
    case = gemm_case("fwd", "long", (5, 2000, 16, 24), "balanced", "bf16", "all")
    made = Operands(torch.device("cpu")).of(case)
    result = Ours().build(case, made)()
    assert checks.complaint(case, made, result) is None
    result[1000, :8] *= -1
    assert "projection" in checks.complaint(case, made, result)


def test_wrong_movements_are_refused():
    moved = ("permute", "unpermute", "unpermute_bwd", "map", *OPTIONS)
    for case in (c for c in CHECKED if c.op in moved):
        made = Operands(torch.device("cpu")).of(case)
        result = Ours().build(case, made)()
        parts = list(result) if isinstance(result, tuple) else [result]
        index = -1 if case.op == "map" else 0
        parts[index] = parts[index].flip(0)
        assert checks.complaint(case, made, tuple(parts)) is not None, case.name


def run(planted, case, device, budget=TINY, clock=None):
    made = Operands(device).of(case)
    contenders = [protocol.Contender(case, p.name, p.build(case, made), made) for p in planted]
    return protocol.measure(contenders, clock or make_clock(device), budget)


class Simulated(WallClock):
    """A clock that planted implementations advance: no machine's noise decides a test."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.now = 0.0  # seconds

    def host(self, call, count):
        start = self.now
        for _ in range(count):
            call()
        return (self.now - start) / count * 1e3


class Taking(Planted):
    """Ours, said to take these seconds in turn."""

    def __init__(self, name, clock, *seconds):
        super().__init__(name)
        self.clock, self.seconds = clock, itertools.cycle(seconds)

    def build(self, case, made):
        call = Ours().build(case, made)

        def taking():
            self.clock.now += next(self.seconds)
            return call()

        return taking


def test_a_planted_slow_implementation_is_seen_and_flagged_by_compare():
    clock, case = Simulated(), gemm("fwd")
    normal = Taking("normal", clock, 1e-3, 1.01e-3, 0.99e-3)
    slow = Taking("slow", clock, 1.1e-3, 1.11e-3, 1.09e-3)
    timings = run([normal, slow], case, torch.device("cpu"), clock=clock)
    runs = []
    for timing in timings:
        assert len(timing.cold_ms) == 3 and len(timing.steady_ms) == 3
        row = results.Row(case, 1, 1, timings={"ours": timing})
        runs.append(results.Results({}, rows=[row]))
    changes, problems = results.compare(*runs)
    assert [c.verdict for c in changes] == ["slower", "slower"] and not problems
    assert [c.ratio for c in changes] == pytest.approx([1.1, 1.1], rel=0.01)
    changes, _ = results.compare(runs[1], runs[0])
    assert {c.verdict for c in changes} == {"faster"}


def test_slow_calls_are_repeated_less_and_the_notes_say_so():
    clock = Simulated()
    budget = protocol.Budget(10, 0.02, windows=3, window_seconds=0.005, lead_seconds=0.0)
    planted = [Taking("slow", clock, 0.01), Taking("fast", clock, 0.001)]
    slow, fast = run(planted, gemm("fwd"), torch.device("cpu"), budget, clock)
    assert len(slow.cold_ms) == 3 and len(slow.steady_ms) == 2
    assert slow.notes == ["3 cold calls instead of 10", "2 windows instead of 3"]
    assert len(fast.cold_ms) == 10 and len(fast.steady_ms) == 3 and not fast.notes


class Settling(Taking):
    """Faster by a tenth until it was called so often, as a chip before its power limit bites."""

    def __init__(self, name, clock, calls):
        fast = itertools.repeat(0.9e-3, calls)
        super().__init__(name, clock, 1e-3)
        self.seconds = itertools.chain(fast, itertools.repeat(1e-3))


@pytest.mark.parametrize(
    ("calls", "mode"),
    [(4, "cold_ms"), (200, "steady_ms")],  # the check and the first cold call make three
)
def test_calls_at_clocks_that_have_not_settled_are_not_timed(calls, mode):
    clock = Simulated()
    budget = protocol.Budget(3, 1.0, windows=3, window_seconds=0.05, lead_seconds=0.25)
    planted = [Settling("a", clock, calls), Settling("b", clock, calls)]
    for timing in run(planted, gemm("fwd"), torch.device("cpu"), budget, clock):
        assert getattr(timing, mode) == pytest.approx([1.0, 1.0, 1.0])


def test_a_peer_that_fails_is_refused_with_its_words():
    def fail(result):
        raise RuntimeError("no kernel for this shape")

    (timing,) = run([Planted("failing", fail)], gemm("fwd"), torch.device("cpu"))
    assert timing.refused == "failed: no kernel for this shape"


def test_a_block_shares_its_dense_and_every_row_gets_a_floor(device):
    cases = [gemm("fwd", kind, "bf16") for kind in ("balanced", "random", "skewed")]
    found = results.Results({})
    Session(device, [Ours(), Loop(), Dense(), Copy()], TINY, found).block(cases, TINY)
    dense = {id(row.timings["dense"]) for row in found.rows}
    assert len(dense) == 1 and len(found.rows) == 3
    for row in found.rows:
        assert row.timings["ours"].steady_ms and row.timings["loop"].cold_ms
        assert row.left_out == {"copy": "bound by its products"}


def test_short_launches_are_replayed_from_a_graph_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    (timing,) = run([Planted("short")], gemm("fwd", dtype="bf16"), torch.device("cuda"))
    assert timing.refused is None and not any("graph" in note for note in timing.notes)


def test_a_run_short_of_time_takes_fewer_windows_and_then_leaves_blocks_out():
    pace = Pace(limit=104.0, budget=protocol.Budget())
    assert pace.windows(to_come=50) == 3
    assert pace.windows(to_come=120) == 2
    assert pace.windows(to_come=100000) == 1
    pace.start -= 200
    assert pace.windows(to_come=1) == 0
    assert Pace(None, protocol.Budget()).windows(10**9) == 3


ADAPTER = """
import torch

class Fake:
    name, process, folder_needed = "fake", True, True
    def available(self, device):
        import grouped_gemm  # the old package's, beside which ours cannot live
        return None if grouped_gemm.MARK == 7 else "another grouped_gemm"
    def supports(self, case):
        return None if case.op == "fwd" else "forward only"
    def build(self, case, g):
        print("a peer that prints")
        def call():
            ends = g.offs.tolist()
            pieces = zip([0, *ends[:-1]], ends, range(len(ends)))
            return torch.cat([g.x[i:j] @ g.w_kn[e] for i, j, e in pieces])
        return call

class Absent:
    name = "absent"
    def available(self, device):
        return "not importable: no such module"

PEERS = [Fake(), Absent()]
"""


@pytest.fixture
def adapters(tmp_path):
    (tmp_path / "fake.py").write_text(ADAPTER)
    (tmp_path / "_helper.py").write_text("raise RuntimeError('not an adapter')")
    old = tmp_path / "old" / "grouped_gemm"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("MARK = 7\n")
    return tmp_path


def test_adapters_of_a_folder_are_loaded_and_absent_ones_named(adapters):
    found = peers.load_adapters(adapters)
    assert [peer.name for peer in found] == ["fake", "absent"]
    present, absent = peers.sort_out(found, {}, torch.device("cpu"))
    assert not present and absent["absent"] == "not importable: no such module"
    assert absent["fake"] == "needs --peer-path fake=FOLDER"


@pytest.mark.parametrize("folder", ["old", "nothing"])
def test_an_old_package_is_measured_in_a_process_of_its_own_with_dense_as_bridge(adapters, folder):
    fake = peers.load_adapters(adapters)[0]
    fake.folder = str(adapters / folder)
    (adapters / "nothing").mkdir(exist_ok=True)
    found = results.Results({})
    session = Session(torch.device("cpu"), [Ours(), Dense(), fake], TINY, found)
    try:
        session.block([gemm("fwd", "alternate")], TINY)
    finally:
        session.workers[0].close()
    (row,) = found.rows
    if folder == "nothing":  # then `import grouped_gemm` is ours, or fails
        assert "fake" in row.left_out and "fake" not in row.timings
        return
    assert row.timings["fake"].refused is None and row.timings["fake"].cold_ms
    assert row.bridges["fake"].cold_ms
    # through the bridge: their time times our dense over their dense
    theirs, bridge = (results.median_ms(t["fake"], "cold") for t in (row.timings, row.bridges))
    dense, mine = (results.median_ms(row.timings[n], "cold") for n in ("dense", "ours"))
    expected = theirs * dense / bridge / mine
    assert results.speed_ratio(row, "ours", "fake", "cold") == pytest.approx(expected)
    assert json.dumps(row.remarks) == "{}"
