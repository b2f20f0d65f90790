"""Which path each operator takes for a shape and why: the library's own plans, read through ctypes.

``explain`` asks ``grouped_gemm_explain`` (src/torch/explain.cc), which makes the very plan that a
call would make and prints it; nothing here repeats a rule. Plans need no GPU: ``Where.named`` takes
a device of this machine or one that is not here, by compute capability. Used by ``info`` and, for
the benchmarks' rows, by ``peers/ours.py``.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

import torch

from .. import _library
from .cases import GEMM_OPS, MOVE_OPS, ROUTE_OPS, Case
from .operands import DTYPES

GEMMS = ("gmm", "gmm_dgrad", "gmm_wgrad")
MOVES = ("permute", "unpermute", "unpermute_bwd")
NAMES = {**DTYPES, "fp64": torch.float64}
_TEXT_BYTES = 2048

# Compute capability -> multiprocessors and most shared memory of a block, bytes, of a GPU that has
# it: the vendor's tables. Others are asked about with their figures, "sm120,170,101376".
KNOWN_LIMITS = {
    70: (80, 98304),
    75: (40, 65536),
    80: (108, 166912),
    86: (84, 101376),
    89: (142, 101376),
    90: (132, 232448),
    100: (148, 232448),
    120: (170, 101376),
}


@dataclass(frozen=True)
class Where:
    """A device to ask about: the CPU, a GPU of this machine, or made-up limits of one."""

    name: str
    index: int = -1  # of a GPU here
    capability: int = 0  # 90 for 9.0
    num_sms: int = 0
    shared_bytes: int = 0

    @classmethod
    def named(cls, text: str) -> Where:
        """``cpu``, ``cuda:0``, ``sm90``, or ``sm90,SMS,SHARED_BYTES``; ValueError for others."""
        name, *figures = text.split(",")
        if name == "cpu" and not figures:
            return cls("cpu")
        if name.startswith("cuda") and not figures:
            digits = name.removeprefix("cuda").removeprefix(":") or "0"
            if digits.isdigit():
                return cls(f"cuda:{digits}", index=int(digits))
        capability = name.removeprefix("sm").rstrip("af")
        if name.startswith("sm") and capability.isdigit():
            known = KNOWN_LIMITS.get(int(capability))
            if len(figures) == 2 and all(f.isdigit() for f in figures):
                known = (int(figures[0]), int(figures[1]))
            if known and len(figures) in (0, 2):
                return cls(text, -1, int(capability), *known)
        raise ValueError(
            f"info: --device got {text!r}; needs cpu, cuda:0, one of "
            f"{', '.join(f'sm{c}' for c in KNOWN_LIMITS)}, or smXX,SMS,SHARED_BYTES; for example "
            "--device sm90,132,232448"
        )

    @classmethod
    def of(cls, device: torch.device) -> Where:
        return cls("cpu") if device.type == "cpu" else cls.named(f"cuda:{device.index or 0}")

    @property
    def is_cpu(self) -> bool:
        return self.index < 0 and not self.capability


class _Question(ctypes.Structure):
    """GroupedGemmQuestion of src/torch/explain.cc."""

    _fields_ = [  # noqa: RUF012 - ctypes reads a list
        ("struct_bytes", ctypes.c_int64),
        ("op", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("out_dtype", ctypes.c_char_p),
        *(
            (name, ctypes.c_int64)
            for name in (
                "tokens", "k", "n", "experts", "topk", "trans_b", "accumulate", "allow_tf32",
                "has_probs", "device_index", "compute_capability", "num_sms",
                "shared_bytes_per_block",
            )
        ),
    ]  # fmt: skip


def explain(
    op: str,
    where: Where,
    *,
    dtype: torch.dtype,
    out_dtype: torch.dtype | None = None,
    tokens: int,
    experts: int,
    k: int = 0,
    n: int = 0,
    topk: int = 1,
    trans_b: bool = True,
    accumulate: bool = False,
    allow_tf32: bool = False,
    probs: bool = False,
) -> str:
    """The plan of one call in one line, or ``none: `` and why the operator cannot have it.

    ``op``: gmm, gmm_dgrad, gmm_wgrad, permute, unpermute, unpermute_bwd, sinkhorn, route,
    route_map or route_bwd. ``tokens`` T, ``k`` K (the hidden size of a permutation), ``n`` N,
    ``experts`` E; ``trans_b``: weights [E, N, K]. Group sizes are on the device, operands
    contiguous and aligned.
    """
    library = None if where.is_cpu else _library.library_path(_library.CUDA_LIBRARY)
    library = library or _library.library_path(_library.CPU_LIBRARY)
    question = _Question(
        ctypes.sizeof(_Question), op.encode(), _dtype_name(dtype),
        None if out_dtype is None else _dtype_name(out_dtype),
        tokens, k, n, experts, topk, trans_b, accumulate, allow_tf32, probs,
        where.index, where.capability, where.num_sms, where.shared_bytes,
    )  # fmt: skip
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    function = _library.open_library(library).grouped_gemm_explain
    refused = function(ctypes.byref(question), text, ctypes.c_int64(_TEXT_BYTES))
    answer = text.value.decode(errors="replace")
    return f"none: {answer}" if refused else answer


def _dtype_name(dtype: torch.dtype) -> bytes:
    return str(dtype).removeprefix("torch.").encode()


def explain_case(case: Case, where: Where) -> str:
    """The plans of a benchmark's case, joined; empty where it has none of its own (moe, host)."""
    return "; ".join(explain(op, where, **problem) for op, problem in _problems_of(case))


def _problems_of(case: Case) -> list[tuple[str, dict]]:
    shape = {"tokens": case.tokens, "experts": case.experts}
    if case.op in GEMM_OPS:
        ops = {"fwd": GEMMS[:1], "dgrad": GEMMS[1:2], "wgrad": GEMMS[2:], "train": GEMMS}[case.op]
        shape |= {"dtype": DTYPES[case.dtype], "k": case.k, "n": case.n}
        shape |= {"trans_b": case.layout == "nk", "accumulate": case.out == "acc"}
        shape["out_dtype"] = None if case.out == "same" else torch.float32
        shape["allow_tf32"] = case.dtype == "tf32"
        return [(op, shape) for op in ops]
    if case.op in MOVE_OPS:
        op = {"map": "permute", "permute_bwd": "unpermute"}.get(case.op, case.op)
        shape |= {"dtype": DTYPES[case.dtype], "k": case.hidden, "topk": case.topk}
        return [(op, {**shape, "probs": case.probs})]
    if case.op == "sinkhorn":
        return [("sinkhorn", {**shape, "dtype": DTYPES[case.dtype]})]
    if case.op in ROUTE_OPS:
        return [(case.op, {**shape, "dtype": DTYPES[case.dtype], "topk": case.topk})]
    return []


# ---- what `info` prints ------------------------------------------------------


def _numbers(option: str, text: str, letters: str, example: str) -> tuple[list[int], torch.dtype]:
    *numbers, dtype = text.split(",")
    count = letters.count(",")
    if len(numbers) != count or not all(n.isdigit() for n in numbers) or dtype not in NAMES:
        raise ValueError(
            f"info: {option} got {text!r}; needs {letters} with DTYPE one of "
            f"{', '.join(NAMES)}; for example {option} {example}"
        )
    return [int(n) for n in numbers], NAMES[dtype]


def gmm_problems(text: str, layout: str = "nk", out: str | None = None, accumulate: bool = False):
    """``T,K,N,E,DTYPE``: (op, arguments of ``explain``) for the three passes of one shape."""
    letters = "T,K,N,E,DTYPE"
    (t, k, n, e), dtype = _numbers("--gmm", text, letters, "65536,2048,1536,128,bf16")
    shape = {"dtype": dtype, "tokens": t, "k": k, "n": n, "experts": e, "trans_b": layout == "nk"}
    shape["allow_tf32"] = text.endswith("tf32")
    if out is not None:
        shape["out_dtype"] = NAMES[out]
    return [(op, {**shape, "accumulate": accumulate and op == "gmm_wgrad"}) for op in GEMMS]


def move_problems(text: str):
    """``T,topK,h,E,DTYPE``: the same for the permutation of one shape."""
    letters = "T,topK,h,E,DTYPE"
    (t, topk, hidden, e), dtype = _numbers("--permute", text, letters, "16384,8,2048,128,bf16")
    shape = {"dtype": dtype, "tokens": t, "topk": topk, "k": hidden, "experts": e, "probs": True}
    return [(op, shape) for op in MOVES]


def example_problems():
    """Every operator at a common shape, for an `info` that names none."""
    sinkhorn = {"dtype": torch.float32, "tokens": 8192, "experts": 64}
    gemms, moves = gmm_problems("65536,2048,1536,128,bf16"), move_problems("8192,8,2048,128,bf16")
    route = {"dtype": torch.float32, "tokens": 16384, "experts": 128, "topk": 8}
    routes = [(op, route) for op in ROUTE_OPS]
    return [*gemms, *moves, ("sinkhorn", sinkhorn), *routes]


def devices_here() -> list[Where]:
    return [Where("cpu"), *(Where.named(f"cuda:{i}") for i in range(torch.cuda.device_count()))]


def path_lines(problems: list[tuple[str, dict]] | None = None, devices: list[Where] | None = None):
    """The table: each device, each operator, its plan."""
    problems = problems or example_problems()
    lines = []
    if os.environ.get("GG_FORCE_PATH"):
        lines.append(f"GG_FORCE_PATH is set to {os.environ['GG_FORCE_PATH']}")
    shown: dict[str, None] = {}
    for op, problem in problems:
        shown[f"  {op}: {_in_words(op, problem)}"] = None
    lines += ["plans are for", *shown, "paths:"]
    for where in devices or devices_here():
        for op, problem in problems:
            lines.append(f"  {where.name} {op}: {explain(op, where, **problem)}")
    return lines


def _in_words(op: str, problem: dict) -> str:
    letters = {"tokens": "T", "topk": "topK", "k": "h" if op in MOVES else "K", "n": "N"}
    letters["experts"] = "E"
    words = [f"{letter}={problem[name]}" for name, letter in letters.items() if name in problem]
    words.append(_dtype_name(problem["dtype"]).decode())
    if problem.get("out_dtype") is not None:
        words.append(f"into {_dtype_name(problem['out_dtype']).decode()}")
    if op in GEMMS:
        words.append("weights [E, N, K]" if problem["trans_b"] else "weights [E, K, N]")
    return " ".join(words) + (", accumulated" if problem.get("accumulate") else "")
