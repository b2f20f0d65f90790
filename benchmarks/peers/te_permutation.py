"""Transformer Engine's token permutation, in both of its forms.

``te``: its Triton kernels (mask map), ``transformer_engine.pytorch.triton.permutation``, of the
whole package or of a folder with those files (``--peer-path te=FOLDER``). The routing map
arrives as a mask [T, E] and probs as [T, E], the form its users' routers produce, made in build.
``te-index``: its CUDA kernels (index map), ``moe_permute`` and ``moe_unpermute`` of the whole
package; backward passes through autograd over a graph that build keeps.

API read in Transformer Engine 2.5 to 2.20. Kernels are compiled and tuned at the first call.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

import torch

bench = globals()["bench"]  # the instrument, put here by whoever loads this file
MOVE_OPS = bench.cases.MOVE_OPS
TRITON_PART = "transformer_engine.pytorch.triton.permutation"


class TritonMask:
    """Mask map: make_row_id_map, permute_with_mask_map, unpermute_with_mask_map."""

    name = "te"

    def available(self, device) -> str | None:
        if device.type != "cuda":
            return "needs a CUDA device"
        try:
            importlib.import_module(TRITON_PART)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            return f"not importable: {error}"
        return None

    def supports(self, case) -> str | None:
        if case.op not in MOVE_OPS:
            return "permutation only"
        return "fp8 only in tensors of its own" if case.dtype == "fp8" else None

    def remark(self, case) -> str:
        if case.op == "unpermute_bwd" and case.probs:
            return "mask and probs [T, E] given; prob gradients stay [T, E]"
        if case.op == "map":
            return "mask [T, E] given; its map stays [T, 2E+1]"
        return "mask and probs [T, E] given"

    def answer(self, case, m, result):
        """Its map [T, 2E+1] -> [topK, T]; prob gradients [T, E] -> [T, topK]."""
        if case.op == "map":
            return _map_by_slot(result, m)
        if case.op == "unpermute_bwd" and case.probs:
            rows_grad, probs_grad = result
            return rows_grad, probs_grad.gather(1, m.ids)
        return result

    def build(self, case, m) -> Callable[[], object]:
        return _mask_call(case, m)


def _map_by_slot(its_map: torch.Tensor, m) -> torch.Tensor:
    """Of a token: n rows from column 0, their n experts from column E, n in the last."""
    experts = m.experts
    count = its_map[:, -1:]
    is_used = torch.arange(experts, device=its_map.device) < count
    expert = torch.where(is_used, its_map[:, experts:-1], experts).long()  # E: nobody's column
    rows = its_map.new_full((its_map.shape[0], experts + 1), -1)
    rows.scatter_(1, expert, its_map[:, :experts])
    return rows.gather(1, m.ids).T.contiguous()


def _mask_call(case, m) -> Callable:
    te = importlib.import_module(TRITON_PART)
    (tokens, topk), hidden = m.ids.shape, m.x.shape[1]
    mask = torch.zeros(tokens, m.experts, dtype=torch.int32, device=m.x.device)
    mask.scatter_(1, m.ids, 1)
    probs = None
    if m.probs is not None:
        probs = torch.zeros(mask.shape, device=m.x.device).scatter_(1, m.ids, m.probs)
    shape = {"num_tokens": tokens, "num_experts": m.experts, "hidden_size": hidden}
    if "pad_offsets" in inspect.signature(te.unpermute_with_mask_map).parameters:
        shape["pad_offsets"] = None  # a required argument of newer versions
    rows_shape = {**shape, "num_out_tokens": tokens * topk}

    def spread(rows, row_id_map):
        nothing = {"probs": None, "scale": None, "scale_hidden_dim": None}
        return te.permute_with_mask_map(rows, row_id_map, **nothing, **rows_shape)[0]

    def permute():
        row_id_map = te.make_row_id_map(mask, tokens, m.experts)
        return spread(m.x, row_id_map), row_id_map

    if case.op == "map":
        return lambda: te.make_row_id_map(mask, tokens, m.experts)
    if case.op == "permute":
        return permute
    row_id_map = te.make_row_id_map(mask, tokens, m.experts)
    if case.op in ("unpermute", "permute_bwd"):
        weights = probs if case.op == "unpermute" else None
        given = {"merging_probs": weights, "permuted_probs": None, **shape}
        return lambda: te.unpermute_with_mask_map(m.rows, row_id_map, **given)[0]
    if probs is None:
        return lambda: (spread(m.grad, row_id_map),)

    def unpermute_bwd():
        return te.unpermute_with_mask_map_bwd_with_merging_probs(
            m.grad, row_id_map, m.rows, probs, **rows_shape
        )

    return unpermute_bwd


class CudaIndex:
    """Index map: moe_permute and moe_unpermute with map_type="index"."""

    name = "te-index"

    def available(self, device) -> str | None:
        if device.type != "cuda":
            return "needs a CUDA device"
        try:
            from transformer_engine.pytorch import moe_permute, moe_unpermute  # noqa: F401
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            return f"not importable: {error}"
        return None

    def supports(self, case) -> str | None:
        if case.op not in MOVE_OPS:
            return "permutation only"
        if case.op == "map":
            return "makes its map in permute only"
        if case.dtype == "fp8":
            return "fp8 only in tensors of its own"
        if case.op in ("unpermute", "unpermute_bwd") and not case.probs:
            return "needs probs"
        return None

    def remark(self, case) -> str:
        return "int32 ids given" + ("; through autograd" if case.op.endswith("bwd") else "")

    def build(self, case, m) -> Callable[[], object]:
        return _index_call(case, m)


def _index_call(case, m) -> Callable:
    from transformer_engine.pytorch import moe_permute, moe_unpermute

    ids, num_rows = m.ids.int(), m.rows.shape[0]

    def permute(x):
        return moe_permute(x, ids, num_rows, map_type="index")

    if case.op == "permute":
        return lambda: permute(m.x)
    if case.op == "permute_bwd":
        x = m.x.detach().requires_grad_()
        rows = permute(x)[0]
        return lambda: torch.autograd.grad(rows, x, m.rows, retain_graph=True)
    row_id_map = permute(m.x)[1]
    if case.op == "unpermute":
        return lambda: moe_unpermute(m.rows, row_id_map, m.probs, map_type="index")
    rows, probs = m.rows.detach().requires_grad_(), m.probs.detach().requires_grad_()
    y = moe_unpermute(rows, row_id_map, probs, map_type="index")
    return lambda: torch.autograd.grad(y, (rows, probs), m.grad, retain_graph=True)


PEERS = [TritonMask(), CudaIndex()]
