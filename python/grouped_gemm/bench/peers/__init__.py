"""Who is measured: adapters, ours among them.

An adapter is an object with

    name: str                       what tables call it
    available(device) -> str | None None, or why it cannot run there ("not importable: ...")
    supports(case) -> str | None    None, or why it does not compute this case
    build(case, operands) -> call   a function without arguments that computes the case once

and, where they apply, these attributes:

    remark(case) -> str         how it differs from the others; printed under the tables
    iterations(operands) -> int     how often sinkhorn goes over its input, of which bytes follow
    explain(case, device) -> str    which path it takes for a case and why; kept with the results
    answer(case, operands, result) -> result    turns its own form of a result (padded rows, another
                       form of map) into the one of the table below, before the check and untimed
    narrow_sums = True its movements add in the element type: the check allows a rounding for each
                       term, and the remark says so
    ceiling = True     computes something else with the case's FLOPs or bytes (dense, copy); its
                       results are not checked
    asked_for = True   measured only where --peer names it
    graph = False      its launches cannot be captured in a CUDA graph
    process = True     runs in a process of its own: for packages that cannot live beside ours.
                       The worker times it in turn with dense, which is the bridge between the two
    folder_needed = True   needs `--peer-path NAME=FOLDER`, put first on its process's import path

``operands`` is a Gemm, Move, Layer or Logits of ``operands.py``. What the call returns is checked:

    fwd, dgrad      [T, N], [T, K]
    wgrad           like operands.w; for case.out == "acc" operands.accumulator, added to
    train           (y, dx, dw)
    map             a tensor or tuple whose last tensor is the row map, int32 [topK, T]
    permute         rows [N, h], or a tuple that begins with them
    unpermute, permute_bwd      [T, h]
    unpermute_bwd   (row gradients [N, h], prob gradients [T, topK] float32 or nothing)
    permute_with, unpermute_with, sort_chunks   what our functions return (permute_options.py)
    sinkhorn        [T, E]
    route           (probs [T, topK], ids [T, topK], counts [E]);  route_bwd  [T, E]
    route_map       the same three and the row map, int32 [topK, T]
    moe, moe_train  y [T, h], or (y, dx, dw of the two expert weights)
    host            anything

Work that a user would do once (transposing weights, importing, compiling) belongs into build;
work of every call belongs into the call. A peer that needs other operands (rows padded to 128,
say), or whose result needs ``answer`` for what a user would have to do as well, says so in
``remark``. Whatever build, the first two calls or ``answer`` raise refuses this cell alone.

``--peers FOLDER`` loads every ``*.py`` of a folder that does not begin with ``_``; each defines
``PEERS``, a list of adapters. Adapters import the instrument from where they were loaded:
they get it as the module global ``bench`` before their code runs.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from ..cases import MOVE_OPS, Case


class Peer(Protocol):
    """What the instrument asks of an adapter; see the module's docstring."""

    name: str

    def available(self, device: torch.device) -> str | None: ...

    def supports(self, case: Case) -> str | None: ...

    def build(self, case: Case, operands) -> Callable[[], object]: ...


def trait(peer: Peer, name: str, default=False):
    """An attribute that an adapter may leave out."""
    return getattr(peer, name, default)


def remark_of(peer: Peer, case: Case) -> str:
    """The peer's own words and, where its results are judged by another bound, that."""
    said = [peer.remark(case)] if hasattr(peer, "remark") else []
    if trait(peer, "narrow_sums") and case.op in MOVE_OPS and case.op not in ("map", "permute"):
        said.append("checked with a rounding for each term")
    return "; ".join(text for text in said if text)


def load_adapters(folder: str | pathlib.Path) -> list[Peer]:
    """The adapters of a folder's files, in the order of the files' names."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"bench: --peers got {folder}; needs a folder of adapters; name one")
    found: list[Peer] = []
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            found += load_adapter_file(path)
    return found


def load_adapter_file(path: pathlib.Path) -> list[Peer]:
    """PEERS of one file; each remembers its file, which a worker process loads again."""
    name = f"grouped_gemm_bench_peer_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    module.bench = sys.modules[__package__.rpartition(".")[0]]
    sys.modules[name] = module
    spec.loader.exec_module(module)
    peers = getattr(module, "PEERS", None)
    if not isinstance(peers, list):
        raise ValueError(f"bench: {path} got no list PEERS; needs one of adapters; define it")
    for peer in peers:
        peer.file = path
    return peers


def builtin_peers() -> list[Peer]:
    """Ours, torch, the loop, and the ceilings, in the order of the tables' columns."""
    from . import ceiling_peers, compiled_peers, ours, torch_peers

    return [
        ours.Ours(),
        torch_peers.TorchGrouped(),
        torch_peers.Loop(),
        compiled_peers.TorchCompiled(),
        compiled_peers.TorchCompiledFusable(),
        ours.TwoCalls(),
        ceiling_peers.Dense(),
        ceiling_peers.Copy(),
        ceiling_peers.Launch(),
    ]


def sort_out(
    peers: Iterable[Peer], folders: dict[str, str], device: torch.device
) -> tuple[list[Peer], dict[str, str]]:
    """(those that can run on the device, name -> why not for the others)."""
    present, absent = [], {}
    for peer in peers:
        if trait(peer, "folder_needed") and peer.name not in folders:
            absent[peer.name] = f"needs --peer-path {peer.name}=FOLDER"
            continue
        # what runs in its own process is asked there, beside its own packages
        reason = None if trait(peer, "process") else peer.available(device)
        if reason is None:
            present.append(peer)
        else:
            absent[peer.name] = reason
    return present, absent
