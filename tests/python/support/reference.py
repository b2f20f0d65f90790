"""The meaning of each operator, as plain loops in float64 (or exact indexing). Slow on purpose.

Everything is computed on the CPU from copies, so a reference never shares code, layout or device
with what it judges.
"""

import torch

EPSILON = 1e-8


def _double(tensor):
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.element_size() > 1 else tensor.float().double()


def row_ranges(sizes):
    """(group, first row, end row) of every group, empty ones too."""
    begin = 0
    for group, size in enumerate(sizes):
        yield group, begin, begin + size
        begin += size


def gmm(a, b, sizes, trans_b=False):
    """a [T, K], b [E, K, N] or [E, N, K] -> [T, N] in float64; rows past the groups are zeros."""
    a, b = _double(a), _double(b)
    if trans_b:
        b = b.transpose(1, 2)
    out = torch.zeros(a.shape[0], b.shape[2], dtype=torch.float64)
    for group, begin, end in row_ranges(sizes):
        out[begin:end] = a[begin:end] @ b[group]
    return out


def gmm_dgrad(dy, b, sizes, trans_b=False):
    """dy [T, N], b as given to gmm -> [T, K]."""
    return gmm(dy, b, sizes, not trans_b)


def gmm_wgrad(a, dy, sizes, trans_b=False):
    """a [T, K], dy [T, N] -> [E, K, N], or [E, N, K] with trans_b."""
    a, dy = _double(a), _double(dy)
    out = torch.zeros(len(sizes), a.shape[1], dy.shape[1], dtype=torch.float64)
    for group, begin, end in row_ranges(sizes):
        out[group] = a[begin:end].T @ dy[begin:end]
    return out.transpose(1, 2).contiguous() if trans_b else out


def row_map(indices, num_out_tokens=None, num_experts=None):
    """The routing of `permute`: (row_id_map as a list [topK*T], source token of every output row).

    Slots are ordered by expert, stably by flattened position. An id below 0 is dropped (with
    num_experts, one not below it too), and so is a slot sorted at or beyond num_out_tokens.
    A source of -1 marks an output row of zeros.
    """
    table = indices.detach().cpu().tolist()
    table = [row if isinstance(row, list) else [row] for row in table]
    tokens = len(table)
    top_k = indices.shape[1] if indices.dim() == 2 else 1
    slots = [(table[t][k], t * top_k + k) for t in range(tokens) for k in range(top_k)]
    kept = [s for s in slots if s[0] >= 0 and (num_experts is None or s[0] < num_experts)]
    kept.sort()
    rows = num_out_tokens or tokens * top_k
    mapping = [-1] * (tokens * top_k)
    source = [-1] * rows
    for row, (_, position) in enumerate(kept[:rows]):
        t, k = divmod(position, top_k)
        mapping[k * tokens + t] = row
        source[row] = t
    return mapping, source


def gather_rows(x, source):
    """Row j is x[source[j]], or zeros where source[j] is -1; the dtype and every bit kept."""
    # A clone: contiguous() keeps the odd strides that a dimension of size 1 may have.
    x = x.detach().cpu().clone(memory_format=torch.contiguous_format)
    out = torch.zeros(len(source), x.shape[1] * x.element_size(), dtype=torch.uint8)
    if out.numel() == 0:
        return torch.zeros(len(source), x.shape[1]).to(x.dtype)
    raw = x.view(torch.uint8).reshape(x.shape[0], out.shape[1])
    source = torch.tensor(source)
    out[source >= 0] = raw[source[source >= 0]]
    return out.view(x.dtype).reshape(len(source), x.shape[1])


def _slots(mapping, tokens, top_k, num_rows):
    """For each k: which tokens have a row for it, and those rows."""
    table = torch.as_tensor([int(m) for m in mapping], dtype=torch.int64).reshape(top_k, tokens)
    for k in range(top_k):
        kept = ((table[k] >= 0) & (table[k] < num_rows)).nonzero()[:, 0]
        yield k, kept, table[k, kept]


def unpermute(x, mapping, tokens, top_k, probs=None, dtype=torch.float64):
    """Token t is the sum over k of probs[t, k] * x[mapping[k*T + t]], added in k order in `dtype`.

    With dtype float32 and operands whose products are exact in float32 this gives, bit for bit,
    the sums that the contract asks for, before their one rounding.
    """
    x = _double(x).to(dtype)
    weights = None if probs is None else _double(probs).to(dtype)
    out = torch.zeros(tokens, x.shape[1], dtype=dtype)
    for k, kept, rows in _slots(mapping, tokens, top_k, x.shape[0]):
        out[kept] += x[rows] if weights is None else weights[kept, k, None] * x[rows]
    return out


def unpermute_grads(grad, x, mapping, tokens, top_k, probs=None):
    """float64 (input gradient [rows, h], prob gradient [T, topK]) of `unpermute`."""
    grad, x = _double(grad), _double(x)
    weights = torch.ones(tokens, top_k, dtype=torch.float64) if probs is None else _double(probs)
    act_grad = torch.zeros_like(x)
    prob_grad = torch.zeros(tokens, top_k, dtype=torch.float64)
    for k, kept, rows in _slots(mapping, tokens, top_k, x.shape[0]):
        act_grad.index_add_(0, rows, weights[kept, k, None] * grad[kept])
        prob_grad[kept, k] = (x[rows] * grad[kept]).sum(1)
    return act_grad, prob_grad


def sinkhorn(cost, iterations):
    """(result, mean |change of d1| in the last iteration) after `iterations` steps, in float64.

    Row maxima m are taken out and epsilon is scaled with them, which is the same formula:
    1 / (e^m s + eps) = e^-m / (s + eps e^-m). So no exponential overflows.
    """
    cost = cost.detach().cpu().double()
    tokens, experts = cost.shape
    top = cost.amax(dim=1)
    c = torch.exp(cost - top[:, None])
    scaled_epsilon = EPSILON * torch.exp(-top)
    d1 = torch.ones(experts, dtype=torch.float64)
    d0 = torch.exp(top)
    change = torch.tensor(float("inf"), dtype=torch.float64)
    for _ in range(iterations):
        d0 = 1 / (tokens * (c @ d1 + scaled_epsilon))
        new_d1 = 1 / (experts * (c.T @ d0 + EPSILON))
        change = (new_d1 - d1).abs().mean()
        d1 = new_d1
    return d1 * c * d0[:, None], change.item()
