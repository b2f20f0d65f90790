"""A peer in a process of its own: an old package that has our module's name, for example.

``WorkerPeer`` (here, in the parent) starts this file as a script and sends it blocks of
cases, one JSON line each; the script measures the peer and dense with the same protocol,
while the parent waits, and answers with one line of timings. The script loads the instrument
under the name ``grouped_gemm_bench``, so that ``import grouped_gemm`` finds the peer's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
from dataclasses import asdict

_NAME = "grouped_gemm_bench"
ANSWER_SECONDS = 600  # importing and compiling included


class WorkerPeer:
    """The parent's end. A process that dies is a reason to leave the peer out, not to stop."""

    def __init__(self, peer, device) -> None:
        self.peer, self.device = peer, device
        self.reason: str | None = None
        self._process: subprocess.Popen | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close

    def _start(self) -> None:
        setup = {
            "file": str(self.peer.file),
            "peer": self.peer.name,
            "folder": getattr(self.peer, "folder", None),
            "device": str(self.device),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        answer = self._answer()
        if answer is not None:
            self.reason = answer.get("absent")

    def _answer(self) -> dict | None:
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        if not ready:
            self._process.kill()
            self.reason = f"its process gave no answer in {ANSWER_SECONDS} s"
            return None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
        self.reason = f"its process ended: {last[:200]}"
        return None

    def _ask(self, line: str) -> dict | None:
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            pass  # it ended between two blocks; what it left says why
        return self._answer()

    def measure(self, rows: dict, budget) -> None:
        """Fills timings and bridges of the rows that the peer supports."""
        from .peers import remark_of
        from .protocol import Timing

        name = self.peer.name
        wanted = []
        for row in rows.values():
            reason = self.reason or self.peer.supports(row.case)
            if reason is None:
                wanted.append(row)
            else:
                row.left_out[name] = reason
        if not wanted:
            return
        if self._process is None:
            self._start()
        answer = None
        if self.reason is None:
            request = {"cases": [asdict(row.case) for row in wanted], "budget": asdict(budget)}
            answer = self._ask(json.dumps(request) + "\n")
        for row in wanted:
            if answer is None:
                row.left_out[name] = self.reason
                continue
            cell = answer["cells"].get(row.case.name, {"left_out": answer["failed"]})
            if cell.get("peer") is None:
                row.left_out[name] = cell.get("left_out") or "its process gave no timing"
                continue
            row.timings[name] = Timing(**cell["peer"])
            if cell.get("dense") is not None:
                row.bridges[name] = Timing(**cell["dense"])
            remark = remark_of(self.peer, row.case)
            if remark:
                row.remarks[name] = remark

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._errors.close()


# ---- the process -------------------------------------------------------------


def _load_instrument() -> None:
    folder = pathlib.Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)


def main(setup: dict) -> None:
    answers = os.fdopen(os.dup(1), "w")  # what the peer prints must not mix with the answers
    os.dup2(2, 1)
    here = str(pathlib.Path(__file__).parent)
    sys.path[:] = [p for p in sys.path if p != here]
    if setup["folder"]:
        sys.path.insert(0, setup["folder"])
    _load_instrument()

    def send(answer: dict) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    import torch
    from grouped_gemm_bench import peers

    found = peers.load_adapter_file(pathlib.Path(setup["file"]))
    peer = next(p for p in found if p.name == setup["peer"])
    peer.process, peer.folder = False, setup["folder"]
    device = torch.device(setup["device"])
    reason = peer.available(device)
    send({"absent": reason})
    if reason is not None:
        return
    session = _session(peer, device)
    for line in sys.stdin:
        send(_measure(json.loads(line), session, peer.name))


def _session(peer, device):
    from grouped_gemm_bench.peers import ceiling_peers
    from grouped_gemm_bench.protocol import DEFAULT
    from grouped_gemm_bench.results import Results
    from grouped_gemm_bench.session import Session

    bridges = [ceiling_peers.Dense(), ceiling_peers.Copy(), ceiling_peers.Launch()]
    return Session(device, [peer, *bridges], DEFAULT, Results({}))


def _measure(request: dict, session, name: str) -> dict:
    """{cells: case -> {peer, dense, left_out}, failed: why the block ended, or None}.

    Timings of the peer and its bridge, measured interleaved; what a block raises ends that block.
    """
    from grouped_gemm_bench.cases import Case
    from grouped_gemm_bench.protocol import Budget, in_a_line
    from grouped_gemm_bench.results import CEILINGS, Results

    session.results = Results({})
    failed = None
    try:
        session.block([Case(**case) for case in request["cases"]], Budget(**request["budget"]))
    except Exception as error:
        failed = f"stopped: {in_a_line(error)}"
    cells = {}
    for row in session.results.rows:
        bridge = next((row.timings[c] for c in CEILINGS if c in row.timings), None)
        timing = row.timings.get(name)
        cells[row.case.name] = {
            "peer": timing and asdict(timing),
            "dense": bridge and asdict(bridge),
            "left_out": row.left_out.get(name, failed),
        }
    return {"cells": cells, "failed": failed}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
