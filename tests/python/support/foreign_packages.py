"""Fakes of the packages that benchmarks/peers adapts: their signatures, computed in plain torch.

They compute what the packages' documents promise and refuse what they refuse (dtypes, devices,
alignments), so that an adapter's layouts and orders of arguments are checked on a CPU.
"""

import torch

# ---- the old packages: files of a folder, since they run in processes of their own -------------

EXTENSION = """
import torch

def gmm(a, b, c, batch_sizes, trans_a, trans_b):
    assert batch_sizes.device.type == "cpu" and batch_sizes.dtype == torch.int64
    assert a.dtype == b.dtype == torch.bfloat16
    start = 0
    for e, count in enumerate(batch_sizes.tolist()):
        rows = slice(start, start + count)
        start += count
        if trans_a:
            if count:  # an empty group's part stays as it was
                c[e] = a[rows].t() @ b[rows]
        else:
            c[rows] = a[rows] @ (b[e].t() if trans_b else b[e])
"""
BACKEND = """
import torch
import grouped_gemm_backend

def gmm(a, b, batch_sizes, trans_a=False, trans_b=False, c=None):
    if c is None and trans_a:
        c = torch.full((len(batch_sizes), a.shape[1], b.shape[1]), float("nan"), dtype=a.dtype)
    elif c is None:
        c = torch.empty(len(a), b.shape[1 if trans_b else 2], dtype=a.dtype)
    grouped_gemm_backend.gmm(a, b, c, batch_sizes, trans_a, trans_b)
    return c

def unpermute(input, row_id_map, prob, max_tokens, num_topK):
    rows = input[row_id_map.view(num_topK, max_tokens).long()]
    total = torch.zeros(max_tokens, input.shape[1], dtype=input.dtype)
    for k in range(num_topK):  # each product and sum rounded to the element type
        weight = prob[:, k, None].to(input.dtype) if prob.numel() else 1.0
        total = total + rows[k] * weight
    return total

def unpermute_bwd(input_bwd, input_fwd, row_id_map, prob):
    index = row_id_map.view(prob.shape[1], -1).long()
    act_grad = torch.empty_like(input_fwd)
    act_grad[index] = (input_bwd * prob.T[:, :, None]).to(input_fwd.dtype)
    return [act_grad, (input_bwd * input_fwd[index]).float().sum(-1).T.contiguous()]
"""
OPS = """
import torch
from grouped_gemm import backend

def gmm(a, b, batch_sizes, trans_b=False):
    groups = zip(a.split(batch_sizes.tolist()), b)
    return torch.cat([rows @ (w.t() if trans_b else w) for rows, w in groups])

def permute(input_act, indices, num_out_tokens=None, max_token_num=0):
    assert indices.dtype == torch.int32
    order = indices.flatten().argsort(stable=True)
    row_id_map = torch.empty_like(order, dtype=torch.int32)
    row_id_map[order] = torch.arange(len(order), dtype=torch.int32)
    return input_act[order // indices.shape[1]], row_id_map.view(indices.shape).T.flatten()

def unpermute(input_act, row_id_map, probs=None):
    return backend.unpermute(input_act, row_id_map, probs, *probs.shape)

def sinkhorn_kernel(cost, tol=0.0001):
    cost.exp_()  # mutated, as the original does
    d1 = torch.ones(cost.shape[1])
    for _ in range(20):
        d0 = 1 / (cost.shape[0] * (cost @ d1))
        d1 = 1 / (cost.shape[1] * (cost.T @ d0))
    return cost.mul_(d1).mul_(d0[:, None])
"""


def write_old_package(folder):
    """The folder that --peer-path names."""
    (folder / "grouped_gemm").mkdir()
    (folder / "grouped_gemm_backend.py").write_text(EXTENSION)
    for name, text in (("__init__", ""), ("backend", BACKEND), ("ops", OPS)):
        (folder / "grouped_gemm" / f"{name}.py").write_text(text)
    return folder


# ---- Transformer Engine ----


def te_map(routing_map, num_tokens, num_experts):
    """Of a token: its n rows from column 0, their experts from column E, n last; others unset."""
    row = routing_map.T.flatten().cumsum(0).view(num_experts, -1).T - 1
    out = torch.full((num_tokens, 2 * num_experts + 1), -99, dtype=torch.int32)
    for t in range(num_tokens):
        chosen = routing_map[t].nonzero().flatten().flip(0)
        out[t, : len(chosen)] = row[t, chosen].int()
        out[t, num_experts : num_experts + len(chosen)] = chosen.int()
        out[t, -1] = len(chosen)
    return out


def te_rows(row_id_map):
    """[T, E]: the row of each pair, -1 where the token does not visit the expert."""
    num_experts = row_id_map.shape[1] // 2
    rows = torch.full((len(row_id_map), num_experts), -1, dtype=torch.int32)
    for t, entries in enumerate(row_id_map):
        count = int(entries[-1])
        rows[t, entries[num_experts : num_experts + count].long()] = entries[:count]
    return rows


def te_functions(with_padding):
    """The Triton part's functions, with the arguments of 2.11 or of 2.20."""
    padding = ", pad_offsets" if with_padding else ""
    scope = {"spread": te_spread, "merge": te_merge, "backward": te_backward}
    text = f"""
def permute_with_mask_map(inp, row_id_map, probs, scale{padding}, num_tokens, num_experts,
                          num_out_tokens, hidden_size, scale_hidden_dim):
    return spread(inp, row_id_map, num_out_tokens), None, None
def unpermute_with_mask_map(inp, row_id_map, merging_probs, permuted_probs{padding}, num_tokens,
                            num_experts, hidden_size):
    return merge(inp, row_id_map, merging_probs), None
def unpermute_with_mask_map_bwd_with_merging_probs(
        fwd_output_grad, row_id_map, fwd_input, merging_probs{padding}, num_tokens, num_experts,
        num_out_tokens, hidden_size):
    return backward(fwd_output_grad, row_id_map, fwd_input, merging_probs)
"""
    exec(text, scope)
    return {name: f for name, f in scope.items() if "mask_map" in name} | {
        "make_row_id_map": te_map
    }


def te_spread(inp, row_id_map, num_rows):
    row_id_map = te_rows(row_id_map)
    token, expert = (row_id_map >= 0).nonzero(as_tuple=True)
    out = inp.new_empty(num_rows, inp.shape[1])
    out[row_id_map[token, expert].long()] = inp[token]
    return out


def te_merge(inp, row_id_map, probs):
    row_id_map = te_rows(row_id_map)
    rows = inp[row_id_map.clamp(min=0).long()].float() * (row_id_map >= 0)[:, :, None]
    return (rows if probs is None else rows * probs[:, :, None]).sum(1).to(inp.dtype)


def te_backward(grad, row_id_map, rows, probs):
    row_id_map = te_rows(row_id_map)
    token, expert = (row_id_map >= 0).nonzero(as_tuple=True)
    index = row_id_map[token, expert].long()
    rows_grad, probs_grad = torch.empty_like(rows), torch.zeros_like(probs)
    rows_grad[index] = (grad[token] * probs[token, expert, None]).to(rows.dtype)
    probs_grad[token, expert] = (grad[token].float() * rows[index].float()).sum(1)
    return rows_grad, probs_grad


def te_moe_permute(inp, routing_map, num_out_tokens=-1, max_token_num=-1, map_type="mask"):
    assert map_type == "index" and routing_map.dtype == torch.int32
    order = routing_map.flatten().argsort(stable=True)
    assert num_out_tokens == order.numel()
    return inp[order // routing_map.shape[1]], order


def te_moe_unpermute(inp, row_id_map, merging_probs=None, restore_shape=None, map_type="mask"):
    assert map_type == "index"
    weighted = inp.float() * merging_probs.flatten()[row_id_map][:, None]
    token = row_id_map // merging_probs.shape[1]
    out = torch.zeros(merging_probs.shape[0], inp.shape[1]).index_add(0, token, weighted)
    return out.to(inp.dtype)


# ---- DeepGEMM, quack, SonicMoE ----

ALIGNMENT = 16


def dg_nt(a, b, d, grouped_layout, compiled_dims="nk"):
    assert a.dtype == b.dtype == d.dtype == torch.bfloat16 and grouped_layout.dtype == torch.int32
    assert len(a) == len(d) == len(grouped_layout) and len(a) % ALIGNMENT == 0
    d.fill_(float("nan"))  # nobody may read the padding
    for e in range(len(b)):
        d[grouped_layout == e] = a[grouped_layout == e] @ b[e].T


def dg_k_grouped(a, b, d, ks, ks_tensor, c=None, compiled_dims="mn"):
    assert d.dtype == torch.float32 and ks == ks_tensor.tolist() and c is d
    assert all(k % ALIGNMENT == 0 for k in ks)
    for e, (left, right) in enumerate(zip(a.split(ks), b.split(ks), strict=True)):
        d[e] += left.float().T @ right.float()


def quack_gemm(A, B, out=None, alpha=1.0, out_dtype=None, cu_seqlens_m=None, cu_seqlens_k=None):
    starts = (cu_seqlens_m if cu_seqlens_k is None else cu_seqlens_k).tolist()
    spans = [slice(i, j) for i, j in zip(starts[:-1], starts[1:], strict=True)]
    if cu_seqlens_m is not None:
        out = torch.cat([A[s].float() @ B[e].float() for e, s in enumerate(spans)])
    else:
        out = torch.stack([A[:, s].float() @ B[s].float() for s in spans])
    return out.to(out_dtype or A.dtype)


def sonic_layer(x, router_w, w1, b1, w2, b2, K, stream_id, activation_type, is_inference):
    """w1 [2f, h, E] with alternating rows of gate and up, w2 [h, f, E]."""
    assert b1 is None and b2 is None and isinstance(stream_id, int) and activation_type == "swiglu"
    logits, ids = (x @ router_w.T).float().topk(K)
    y = torch.zeros(x.shape)
    for k in range(K):
        up = torch.einsum("th,fht->tf", x.float(), w1[:, :, ids[:, k]].float())
        inner = torch.nn.functional.silu(up[:, ::2]) * up[:, 1::2]
        out = torch.einsum("tf,hft->th", inner, w2[:, :, ids[:, k]].float())
        y = y + logits.softmax(-1)[:, k, None] * out
    return y.to(x.dtype), None, None


def te_fused_topk_with_score_function(
    logits,
    topk,
    use_pre_softmax,
    num_groups,
    group_topk,
    scaling_factor,
    score_function,
    expert_bias,
):
    assert not use_pre_softmax and score_function == "softmax"
    assert num_groups is group_topk is scaling_factor is expert_bias is None
    chosen, indices = logits.topk(topk)
    probs = torch.zeros_like(logits).scatter(1, indices, chosen.softmax(-1))
    return probs, torch.zeros_like(logits, dtype=torch.bool).scatter(1, indices, True)
