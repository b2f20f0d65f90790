"""How rows fall into groups, and which experts a token visits: pure functions of a seed.

Drawn on the CPU, so that every machine measures the same numbers.
"""

from __future__ import annotations

import torch

DISTRIBUTIONS = {
    "balanced": "every expert the same number of rows",
    "random": "multinomial over softmax(0.5 * randn)",
    "skewed": "share of an expert proportional to 1 / (rank + 1), experts shuffled",
    "one-hot": "all rows to one expert",
    "alternate": "every second expert empty, the others balanced",
}


def group_sizes(kind: str, experts: int, tokens: int, seed: int = 0) -> list[int]:
    """Rows of each group, [experts] summing to ``tokens``."""
    if experts < 1:
        raise ValueError(f"bench: experts got {experts}; needs at least 1; name another case")
    generator = torch.Generator().manual_seed(seed)
    if kind == "balanced":
        return _apportion([1.0] * experts, tokens)
    if kind == "random":
        if tokens == 0:
            return [0] * experts
        share = torch.softmax(0.5 * torch.randn(experts, generator=generator), 0)
        drawn = torch.multinomial(share, tokens, replacement=True, generator=generator)
        return torch.bincount(drawn, minlength=experts).tolist()
    if kind == "skewed":
        order = torch.randperm(experts, generator=generator).tolist()
        return _apportion([1.0 / (rank + 1) for rank in order], tokens)
    if kind == "one-hot":
        hot = int(torch.randint(experts, (), generator=generator))
        return [tokens if e == hot else 0 for e in range(experts)]
    if kind == "alternate":
        return _apportion([float(e % 2 == 0) for e in range(experts)], tokens)
    known = ", ".join(DISTRIBUTIONS)
    raise ValueError(f"bench: sizes got {kind!r}; needs one of {known}; name one of them")


def _apportion(share: list[float], tokens: int) -> list[int]:
    """Whole rows by largest remainder; ties go to the earlier expert."""
    total = sum(share)
    exact = [tokens * s / total for s in share]
    rows = [int(value) for value in exact]
    by_remainder = sorted(range(len(share)), key=lambda e: (rows[e] - exact[e], e))
    for e in by_remainder[: tokens - sum(rows)]:
        rows[e] += 1
    return rows


def expert_ids(experts: int, tokens: int, topk: int, seed: int = 0) -> torch.Tensor:
    """int64 [tokens, topk]: distinct experts of each token, some more popular than others."""
    generator = torch.Generator().manual_seed(seed)
    popularity = 0.5 * torch.randn(experts, generator=generator)
    scores = popularity + torch.randn(tokens, experts, generator=generator)
    return scores.topk(topk, dim=1).indices
