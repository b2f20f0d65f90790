"""moe_route's meaning in float64, written out once more, and the variants that tests go through."""

import torch

from support.compare import assert_close_elementwise

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

# name -> moe_route's keywords; the bias, where one is asked for, comes from `bias_for`.
VARIANTS = {
    "softmax": {},
    "softmax_scaled": {"scaling_factor": 2.5},
    "pre_softmax": {"use_pre_softmax": True},
    "pre_softmax_normalized": {"use_pre_softmax": True, "normalize_topk": True},
    "sigmoid": {"score_function": "sigmoid"},
    "sigmoid_normalized": {"score_function": "sigmoid", "normalize_topk": True},
    "pre_softmax_bias": {"use_pre_softmax": True, "expert_bias": True},
    "softmax_bias": {"expert_bias": True},
    "groups_by_maximum": {
        "use_pre_softmax": True,
        "num_groups": 4,
        "group_topk": 2,
        "group_score_topk": 1,
    },
    "deepseek_v3": {
        "score_function": "sigmoid",
        "normalize_topk": True,
        "num_groups": 4,
        "group_topk": 2,
        "scaling_factor": 2.5,
        "expert_bias": True,
    },
}


def keywords(variant, num_experts, device):
    """The variant's keywords, with a bias tensor where it has one."""
    chosen = dict(VARIANTS[variant])
    if chosen.get("expert_bias"):
        generator = torch.Generator().manual_seed(num_experts)
        chosen["expert_bias"] = (0.05 * torch.randn(num_experts, generator=generator)).to(device)
    return chosen


def choose(
    x,
    topk,
    score_function="softmax",
    use_pre_softmax=False,
    num_groups=1,
    group_topk=1,
    group_score_topk=2,
    expert_bias=None,
    **_,
):
    """(indices [T, topk], keys [T, E]): a loop over tokens, ranks by (key, lowest index)."""
    num_tokens, num_experts = x.shape
    by_logits = expert_bias is None and num_groups == 1
    if by_logits or (score_function == "softmax" and not use_pre_softmax):
        keys = x.detach().clone()
    else:
        keys = scores_of(x.detach(), score_function)
    if expert_bias is not None:
        keys += expert_bias.cpu().double()
    size = num_experts // num_groups
    groups = [range(g * size, (g + 1) * size) for g in range(num_groups)]
    chosen = []
    for row in keys.tolist():
        best = [sum(sorted((row[e] for e in g), reverse=True)[:group_score_topk]) for g in groups]
        order = sorted(range(num_groups), key=lambda g: (-best[g], g))[:group_topk]
        in_reach = [e for g in sorted(order) for e in groups[g]]
        chosen.append(sorted(in_reach, key=lambda e: (-row[e], e))[:topk])
    return torch.tensor(chosen, dtype=torch.int64).reshape(num_tokens, topk), keys


def weights(x, indices, score_function="softmax", use_pre_softmax=False, normalize_topk=False,
            scaling_factor=1.0, **_):  # fmt: skip
    """[T, topk] of x's dtype, differentiable in x."""
    if score_function == "softmax" and not use_pre_softmax:
        return scaling_factor * x.gather(1, indices).softmax(-1)
    probs = scores_of(x, score_function).gather(1, indices)
    return scaling_factor * (probs / probs.sum(-1, keepdim=True) if normalize_topk else probs)


def scores_of(x, score_function):
    return x.softmax(-1) if score_function == "softmax" else x.sigmoid()


def sums(logits, score_function, num_sequences):
    """(score_sums [S, E], z_sums [S]) in float64 on the CPU, differentiable in logits."""
    x = logits.cpu().double()
    scores = scores_of(x, score_function)
    scores = scores / scores.sum(-1, keepdim=True)
    z = x.logsumexp(-1).square()
    shape = (num_sequences, x.shape[0] // num_sequences)
    return scores.view(*shape, x.shape[1]).sum(1), z.view(shape).sum(1)


def logits_of(tokens, experts, device, dtype=torch.float32, scale=2.0):
    return (scale * torch.randn(tokens, experts)).to(dtype).to(device)


def assert_is_the_formula(routed, logits, topk, **options):
    """Keys that differ by less than float32's rounding may come in either order."""
    x = logits.detach().cpu().double()
    indices, keys = choose(x, topk, **options)
    actual = routed.indices.cpu().long()
    assert routed.indices.dtype == torch.int32 and actual.shape == indices.shape
    assert (actual.sort(dim=1).values.diff(dim=1) > 0).all(), "an expert was chosen twice"
    difference = (keys.gather(1, actual) - keys.gather(1, indices)).abs()
    assert ((difference == 0) | (difference < 3e-7)).all()
    assert (actual != indices)[difference == 0].sum() == 0, "a tie went to a higher index"
    probs = weights(x, actual, **options)
    assert_close_elementwise(routed.probs, probs, 1e-5 * probs + 1e-30)
    counts = torch.bincount(actual.flatten(), minlength=logits.shape[1])
    assert routed.tokens_per_expert.dtype == torch.int32
    assert routed.tokens_per_expert.tolist() == counts.tolist()
