"""What counting reaches: byte n-gram models, the measure of whether the network learned anything.

Called by train_moe_lm.py at the end of a run.
"""

import torch
from torch import Tensor


def ngram_losses(train: Tensor, validation: Tensor) -> dict[str, float]:
    """Nats per byte of `validation` under n-grams counted on `train` (uint8 [bytes] both).

    Every order falls back on the one below by Witten-Bell interpolation: p(w|c) is
    (count(c,w) + kinds(c) · p_lower(w)) / (count(c) + kinds(c)), where kinds(c) says how many
    different bytes followed c. Source: Witten and Bell, "The zero-frequency problem", 1991.
    """
    probability = torch.tensor(1 / 256, dtype=torch.float64)  # order 0: every byte alike
    losses = {}
    for order, name in enumerate(("unigram", "bigram", "trigram"), start=1):
        counts = torch.bincount(ngram_ids(train, order), minlength=256**order).view(-1, 256)
        total, kinds = counts.sum(1), (counts > 0).sum(1)
        ids = ngram_ids(validation, order)
        context = ids // 256
        if order > 1:  # the lower order predicted one more byte: the first of these has no context
            probability = probability[1:]
        seen = total[context] > 0
        weight = (total + kinds)[context].clamp_min(1)
        interpolated = (counts.flatten()[ids] + kinds[context] * probability) / weight
        probability = torch.where(seen, interpolated, probability)
        losses[name] = -probability.log().mean().item()
    return losses


def ngram_ids(text: Tensor, order: int) -> Tensor:
    """Each run of `order` bytes as one number; the last byte is the lowest digit."""
    length = len(text) - order + 1
    ids = torch.zeros(length, dtype=torch.int64)
    for start in range(order):
        ids = ids * 256 + text[start : start + length]
    return ids
