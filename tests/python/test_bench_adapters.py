"""What an adapter may ask of the instrument: its own form of a result, sums in its element type,
any exception, its folder and device; and that none of it is silent. Fakes on the CPU."""

import os

import pytest
import torch
from grouped_gemm.bench import checks, peers, protocol, results
from grouped_gemm.bench.cases import gemm_case, move_case
from grouped_gemm.bench.clock import WallClock
from grouped_gemm.bench.operands import Operands
from grouped_gemm.bench.peers.ceiling_peers import Dense
from grouped_gemm.bench.peers.ours import Ours
from grouped_gemm.bench.session import Session

CPU = torch.device("cpu")
TINY = protocol.Budget(2, 0.01, windows=1, window_seconds=0.001, lead_seconds=0.0)
FORWARD = gemm_case("fwd", "small", (4, 70, 48, 40), "random", "bf16", "all")


class Fake:
    """Ours under another name, with something done to its result."""

    name = "fake"

    def __init__(self, change=lambda result: result, **traits):
        self.change = change
        vars(self).update(traits)

    def available(self, device):
        return None

    def supports(self, case):
        return None

    def build(self, case, made):
        call = Ours().build(case, made)
        return lambda: self.change(call())


def row_of(case, *measured):
    found = results.Results({})
    Session(CPU, list(measured), TINY, found).block([case], TINY)
    return found.rows[0]


# ---- answer: its own form of a result ----------------------------------------


def test_a_peers_own_form_of_a_result_is_answered_before_the_check_and_not_timed():
    answered = []

    def answer(case, made, result):
        answered.append(case.name)
        return result["padded"][: made.x.shape[0]]

    def pad(y):
        return {"padded": torch.nn.functional.pad(y, (0, 0, 0, 7), value=float("nan"))}

    timing = row_of(FORWARD, Fake(pad, answer=answer)).timings["fake"]
    assert timing.refused is None and timing.cold_ms and timing.steady_ms
    assert answered == [FORWARD.name]  # once, for the check


def test_an_answer_does_not_excuse_a_wrong_result_and_its_errors_refuse_the_cell():
    wrong = Fake(answer=lambda case, made, result: result * 2)
    assert row_of(FORWARD, wrong).timings["fake"].refused.startswith("wrong: ")
    broken = Fake(answer=lambda case, made, result: {}["rows"])
    assert row_of(FORWARD, broken).timings["fake"].refused == "failed: KeyError: 'rows'"


# ---- narrow_sums: sums in the element type -----------------------------------


def narrow(case, made):
    """What a peer computes that rounds each product and each sum to bf16."""
    total = torch.zeros_like(made.x)
    for k, rows in enumerate(made.row_id_map.long()):
        weight = 1.0 if made.probs is None else made.probs[:, k, None].to(made.x.dtype)
        total = total + made.rows[rows] * weight
    return total


def narrow_backward(case, made):
    grads, dots = torch.empty_like(made.rows), []
    for k, rows in enumerate(made.row_id_map.long()):
        grads[rows] = made.grad * made.probs[:, k, None].to(made.grad.dtype)
        dots.append((made.rows[rows] * made.grad).float().sum(1))
    return grads, torch.stack(dots, 1)


NARROW = [
    (move_case("unpermute", (300, 8, 64, 16), "bf16", "all", True), narrow),
    (move_case("permute_bwd", (300, 8, 64, 16), "bf16", "all"), narrow),
    (move_case("unpermute_bwd", (300, 4, 256, 16), "bf16", "all", True), narrow_backward),
]


@pytest.mark.parametrize(("case", "compute"), NARROW, ids=[c.name for c, _ in NARROW])
def test_sums_in_the_element_type_pass_only_for_peers_that_say_so(case, compute):
    made = Operands(CPU).of(case)
    result = compute(case, made)
    assert checks.complaint(case, made, result) is not None
    assert checks.complaint(case, made, result, narrow_sums=True) is None
    first = result[0] if isinstance(result, tuple) else result
    first[3] *= 1.5  # wrong is wrong all the same
    assert checks.complaint(case, made, result, narrow_sums=True) is not None


def test_the_wider_bound_is_told_in_the_remark():
    peer = Fake(narrow_sums=True, remark=lambda case: "int32 ids")
    assert peers.remark_of(peer, NARROW[0][0]) == "int32 ids; checked with a rounding for each term"
    assert peers.remark_of(peer, FORWARD) == "int32 ids"
    assert row_of(NARROW[0][0], peer).remarks["fake"].startswith("int32 ids; checked")


# ---- exceptions --------------------------------------------------------------


class CompilationError(Exception):
    pass


@pytest.mark.parametrize("error", [CompilationError("bad IR\nat line 3"), AssertionError()])
def test_whatever_a_foreign_peer_raises_refuses_its_cell_and_the_run_goes_on(error):
    def raising(*_):
        raise error

    row = row_of(FORWARD, Ours(), Fake(raising))
    words = "CompilationError: bad IR" if str(error) else "AssertionError: no message"
    assert row.timings["fake"].refused == f"failed: {words}"
    assert row.timings["ours"].cold_ms
    row = row_of(FORWARD, Ours(), Fake(build=raising))
    assert row.timings["fake"].refused == f"failed to build: {words}"
    assert row.timings["ours"].cold_ms


def test_of_ours_only_what_operators_raise_is_a_refusal():
    made = Operands(CPU).of(FORWARD)

    def measured(error):
        def call():
            raise error

        contender = protocol.Contender(FORWARD, "ours", call, made)
        return protocol.measure([contender], WallClock(CPU), TINY)[0]

    assert measured(RuntimeError("gmm: b got")).refused == "failed: gmm: b got"
    with pytest.raises(AssertionError):
        measured(AssertionError("a bug of ours"))


# ---- a process of its own ----------------------------------------------------

WORKER = """
import os, torch

class Fake:
    name, process = "fake", True
    def available(self, device):
        missing = None if self.folder else "no folder: " + device.type
        return os.environ.get("FAKE_ABSENT") or missing
    def supports(self, case):
        if os.environ.get("FAKE_PARENT") == str(os.getppid()) and case.op == "dgrad":
            return "only its own process knows why"
        return None
    def build(self, case, g):
        assert case.sizes != "one-hot", "one group is too few"
        def call():
            if case.sizes == "skewed":
                raise AssertionError("more than its check raises")
            if case.sizes == "alternate":
                os._exit(3)
            ends = g.offs.tolist()
            pieces = zip([0, *ends[:-1]], ends, range(len(ends)))
            return torch.cat([g.x[i:j] @ g.w_kn[e] for i, j, e in pieces])
        return call

PEERS = [Fake()]
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_PARENT", str(os.getpid()))
    (tmp_path / "fake.py").write_text(WORKER)
    (peer,) = peers.load_adapters(tmp_path)
    peer.folder = str(tmp_path)
    return peer


def run(peer, *cases):
    """A whole run of the session: name of the case -> Row, and the results."""
    found = results.Results({})
    session = Session(CPU, [Dense(), peer], TINY, found)
    session.run(list(cases), None, lambda *_: None)
    return {row.case.name: row for row in found.rows}, found


def forward(sizes, op="fwd"):
    return gemm_case(op, f"small-{sizes}", (4, 70, 48, 40), sizes, "bf16", "all")


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    monkeypatch.setattr("grouped_gemm.bench.ceilings.SIDE", {"cpu": 64})
    monkeypatch.setattr("grouped_gemm.bench.ceilings.BUFFER_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr("grouped_gemm.bench.clock.FLUSH_BYTES", {"cpu": 1 << 20})


def test_a_worker_survives_what_its_peer_raises_and_knows_its_folder(worker):
    rows, found = run(worker, forward("skewed"), forward("one-hot"), forward("random"))
    refused = {name.split("/")[2]: row.timings["fake"].refused for name, row in rows.items()}
    assert refused["skewed"] == "failed: AssertionError: more than its check raises"
    assert refused["one-hot"] == "failed to build: AssertionError: one group is too few"
    assert refused["random"] is None and "fake" not in found.absent


def test_what_only_the_worker_knows_of_a_left_out_case_comes_back(worker):
    rows, _ = run(worker, forward("random", "dgrad"))
    (row,) = rows.values()
    assert row.left_out["fake"] == "only its own process knows why"
    assert "fake" not in row.timings


def test_a_worker_that_dies_or_finds_its_peer_absent_is_named_as_absent(worker, monkeypatch):
    rows, found = run(worker, forward("alternate"), forward("random"))
    assert found.absent["fake"].startswith("its process ended: ")
    assert all("fake" in row.left_out for row in rows.values())
    monkeypatch.setenv("FAKE_ABSENT", "not importable: no such module")
    _, found = run(worker, forward("random"))
    assert found.absent == {"fake": "not importable: no such module"}
    monkeypatch.delenv("FAKE_ABSENT")
    worker.folder = None
    _, found = run(worker, forward("random"))
    assert found.absent == {"fake": "no folder: cpu"}


def test_availability_is_asked_for_the_device_at_hand():
    peer = Fake(available=lambda device: None if device.type == "cuda" else "needs a CUDA device")
    assert peers.sort_out([peer], {}, CPU) == ([], {"fake": "needs a CUDA device"})
    assert peers.sort_out([peer], {}, torch.device("cuda"))[0] == [peer]
