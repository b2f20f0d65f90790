"""What may travel along with a permutation: its cases, our calls, their checks.

A case is ``permute_with/T x topK x h x E/dtype/option``, ``unpermute_with/.../residual`` or
``sort_chunks/...``. Bytes are those of plain rows: pads are in nobody's floor, and rows beyond
a capacity move in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .cases import Case, move_case
from .sizes import group_sizes

SHAPES = ((16384, 8, 2048, 128), (8192, 8, 7168, 256))  # T, topK, h, E
PERMUTES = ("probs", "align16", "align128", "capacity", "capacity-by-probs", "routing-map")
UNPERMUTES = ("residual",)
SORTS = ("rows", "probs")
OPTIONS = {"permute_with": PERMUTES, "unpermute_with": UNPERMUTES, "sort_chunks": SORTS}
CAPACITY_FACTOR = 1.0


def option_cases() -> Iterable[Case]:
    for tokens, topk, hidden, experts in SHAPES:
        for op, options in OPTIONS.items():
            for option in options:
                numbers = (tokens, topk if op != "sort_chunks" else 1, hidden, experts)
                yield move_case(op, numbers, "bf16", "all", call=option)


def align_size(case) -> int:
    return int(case.call.removeprefix("align")) if case.call.startswith("align") else 1


def capacity(case) -> int | None:
    """As Megatron's: the mean of an expert's slots times a factor."""
    if not case.call.startswith("capacity"):
        return None
    return -(-int(case.tokens * case.topk * CAPACITY_FACTOR) // case.experts)


def option_rows(case) -> int:
    """Rows read and written by one call, of T * topK slots; what else moves is a per mille."""
    slots = case.tokens * case.topk
    if case.op == "unpermute_with":
        return 2 * case.tokens + slots  # the residual's rows too
    return case.tokens + slots  # of sort_chunks: topK is 1


def ours(gg, case, m) -> Callable[[], object]:
    """Our call; ``m`` holds the operands of a permutation (operands.Move)."""
    if case.op == "unpermute_with":
        return lambda: gg.moe_unpermute(m.rows, m.row_id_map, m.probs, residual=m.grad)
    if case.op == "sort_chunks":
        split_sizes, order = chunks(case, m.x.device)
        probs = m.probs[:, 0].contiguous() if case.call == "probs" else None
        return lambda: gg.sort_chunks(m.x, split_sizes, order, probs=probs)
    options = {"num_experts": case.experts, "align_size": align_size(case)}
    options["capacity"] = capacity(case)
    ids = m.ids
    if case.call in ("probs", "capacity-by-probs"):
        options["probs"] = m.probs
    if case.call == "capacity-by-probs":
        options["drop_policy"] = "probs"
    if case.call == "routing-map":
        options["topk"] = case.topk
        ids = torch.zeros(case.tokens, case.experts, dtype=torch.bool, device=m.x.device)
        ids.scatter_(1, m.ids.long(), True)
    return lambda: gg.moe_permute(m.x, ids, **options)


def chunks(case, device) -> tuple[Tensor, Tensor]:
    """Sizes of as many chunks of the T rows as there are experts, and their new order."""
    sizes = torch.tensor(group_sizes("random", case.experts, case.tokens, case.seed))
    order = torch.randperm(case.experts, generator=torch.Generator().manual_seed(case.seed))
    return sizes.to(device), order.to(device)


def option_complaint(case, m, results, merged: Callable, close: Callable) -> str | None:
    """None, or what is wrong. ``merged`` and ``close`` are checks.py's for sums of rows."""
    if case.op == "sort_chunks":
        split_sizes, order = chunks(case, torch.device("cpu"))
        pieces = m.x.split(split_sizes.tolist())
        want = torch.cat([pieces[i] for i in order.tolist()])
        return None if torch.equal(results[0], want) else "the rows are not the chunks' in order"
    if case.op == "unpermute_with":
        want = merged(m, True)[0] + m.grad.float()
        return close(results[0], want, "rows")
    return _permute_complaint(case, m, *results)


def _permute_complaint(case, m, rows, row_id_map, counts, ends, *probs) -> str | None:
    slots = torch.bincount(m.ids.flatten(), minlength=case.experts)
    kept = slots.clamp(max=capacity(case)) if capacity(case) is not None else slots
    if not torch.equal(counts.long(), kept):
        return "tokens_per_expert differ"
    padded = -(-kept // align_size(case)) * align_size(case)
    if not torch.equal(ends.long(), padded.cumsum(0)):
        return "offs differ"
    is_named = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
    for k, entries in enumerate(row_id_map.long()):
        tokens = (entries >= 0).nonzero()[:, 0]
        named = entries[tokens]
        is_named[named] = True
        if not torch.equal(rows[named], m.x[tokens]):
            return f"rows of k = {k} are not their tokens'"
        if probs and not torch.equal(probs[0][named], m.probs[tokens, k]):
            return f"probs of k = {k} are not their slots'"
    if int(is_named.sum()) != int(kept.sum()):
        return "the map does not name as many rows as are kept"
    return "a pad or an empty row is not zero" if bool(rows[~is_named].any()) else None
