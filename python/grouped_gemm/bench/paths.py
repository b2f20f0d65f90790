"""Which path each operator takes for a shape and why: a table for ``info``.

The library's plans say this exactly (``gg::to_string(plan)`` in C++) and are not reachable
from Python yet; until they are, this repeats the rules of src/core/path.cc: the first row
whose device and compute capability fit, unless GG_FORCE_PATH names another of that device.
``path_of`` is the one function to replace.
"""

from __future__ import annotations

import os

import torch

OPERATORS = ("gmm", "gmm_dgrad", "gmm_wgrad", "permute", "unpermute", "sinkhorn")
_CPU, _CUDA = ("parallel", "reference"), ("sm90", "portable")
_GEMMS = OPERATORS[:3]
_DTYPES = ("bf16", "fp16", "fp32", "fp64")
_LEAST_CAPABILITY = (7, 0)


def path_of(op: str, device: torch.device) -> tuple[str, str]:
    """(path, why) of an operator on a device; ("none", why not) where it has no path."""
    on_cuda = device.type == "cuda"
    paths = _CUDA if on_cuda else _CPU
    forced = os.environ.get("GG_FORCE_PATH", "")
    if not on_cuda:
        if forced in paths:
            return forced, "GG_FORCE_PATH names it"
        if op in _GEMMS:
            return "parallel", "CPU: PyTorch's matmul for each group"
        return "parallel", "CPU: rows shared among PyTorch's threads"
    from .. import _library

    if _library.library_path(_library.CUDA_LIBRARY) is None:
        return "none", "this build has the CPU part only"
    if forced in paths and (forced != "sm90" or op in _GEMMS):
        return forced, "GG_FORCE_PATH names it"
    capability = torch.cuda.get_device_capability(device)
    text = ".".join(map(str, capability))
    if capability < _LEAST_CAPABILITY:
        return "none", f"compute capability {text}; needs 7.0 or more"
    if op in _GEMMS and capability == (9, 0) and forced != "portable":
        return "sm90", (
            "compute capability 9.0; bf16 and fp16 whose rows are multiples of 16 bytes, the rest "
            "portable"
        )
    return "portable", f"compute capability {text}; no path of its own is built for it yet"


def describe_shape(text: str) -> str:
    """ "T,K,N,E,DTYPE" in words, checked; ValueError says what is wrong."""
    parts = text.split(",")
    numbers = parts[:4]
    if len(parts) != 5 or not all(p.isdigit() for p in numbers) or parts[4] not in _DTYPES:
        raise ValueError(
            f"info: --gmm got {text!r}; needs T,K,N,E,DTYPE with DTYPE one of "
            f"{', '.join(_DTYPES)}; for example --gmm 65536,2048,1536,128,bf16"
        )
    tokens, k, n, experts = map(int, numbers)
    return f"T={tokens} K={k} N={n} E={experts} {parts[4]}"


def _gemm_path_of_shape(op: str, device: torch.device, shape: str) -> tuple[str, str]:
    """path_of for packed operands of that shape: sm90 takes 16-bit rows of 16-byte multiples."""
    path, why = path_of(op, device)
    k, n, dtype = int(shape.split(",")[1]), int(shape.split(",")[2]), shape.split(",")[4]
    if path != "sm90":
        return path, why
    if dtype not in ("bf16", "fp16"):
        return "portable", f"{dtype} has no path of its own on compute capability 9.0 yet"
    for name, extent in (("K", k), ("N", n)):
        if extent % 8:
            return "portable", f"{name} = {extent} gives rows that are no multiple of 16 bytes"
    return path, why


def path_lines(shape: str | None = None) -> list[str]:
    """The table, for the grouped GEMM of one shape or for every operator."""
    operators = OPERATORS
    lines = ["paths:"]
    if shape is not None:
        lines = [f"paths for {describe_shape(shape)} (today's paths take every shape):"]
        operators = _GEMMS
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        for op in operators:
            if shape and shape.endswith("fp64") and device.type == "cuda":
                path, why = "none", "fp64 is computed on the CPU only"
            elif shape and device.type == "cuda":
                path, why = _gemm_path_of_shape(op, device, shape)
            else:
                path, why = path_of(op, device)
            lines.append(f"  {device} {op}: {path} ({why})")
    return lines
