"""`grouped_gemm.nn.MoE` on one device: what it computes, what it reports, what it refuses.

The measure is a loop over experts written with `nn.Linear`, in float64. Several processes are the
matter of test_moe_distributed.py.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from grouped_gemm.nn import MoE, fuse_experts, load_balancing_loss, split_experts
from grouped_gemm.reference import LoopMoE
from torch import nn
from torch.utils.checkpoint import checkpoint

H, FFN, E, TOP_K, T = 24, 40, 5, 2, 37
VARIANTS = [
    pytest.param(score, normalize, activation, id=f"{score}-{normalize}-{activation}")
    for score in ("softmax", "sigmoid")
    for normalize in (False, True)
    for activation in ("swiglu", "gelu")
]


# Random values are drawn on the CPU, so that every device gets the same routing.


def tokens(device, *shape, dtype=torch.float32):
    return torch.randn(*(shape or (T, H))).to(device, dtype).requires_grad_()


def make_moe(device, **kwargs):
    return MoE(H, FFN, E, TOP_K, **kwargs).to(device)


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
    layer.weight = nn.Parameter(weight.detach().double())
    return layer


def loop_over_experts(moe, x):
    """The layer in float64, one expert after the other; returns (y, its `nn.Linear` layers)."""
    names = ("gate_proj", "up_proj", "down_proj")
    weights = {k: v for k, v in split_experts(moe.state_dict()).items() if k != "gate.weight"}
    layers = {key.removesuffix(".weight"): linear(w) for key, w in weights.items()}
    layers["gate"] = linear(moe.gate.weight)

    logits = layers["gate"](x)
    scores = logits.softmax(-1) if moe.gate.score_function == "softmax" else logits.sigmoid()
    probs, indices = scores.topk(moe.top_k)
    if moe.gate.normalize_topk:
        probs = probs / probs.sum(-1, keepdim=True)
    y = torch.zeros_like(x)
    for e in range(moe.num_experts):
        gate, up, down = (layers.get(f"experts.{e}.{name}") for name in names)
        token, slot = torch.where(indices == e)
        mine = x[token]
        hidden = F.silu(gate(mine)) * up(mine) if gate else F.gelu(up(mine))
        y = y.index_add(0, token, down(hidden) * probs[token, slot, None])
    return y, layers


def assert_elements_close(actual, expected, depth, eps=2**-23):
    """Every element within the rounding of a sum of `depth` terms of the result's usual size."""
    expected = expected.double()
    size = expected.abs() + expected.square().mean().sqrt()
    error = (actual.double() - expected).abs()
    assert actual.shape == expected.shape
    assert (error <= 4 * eps * math.sqrt(depth) * size).all(), f"largest error {error.max():.3g}"


@pytest.mark.parametrize(("score", "normalize", "activation"), VARIANTS)
def test_it_equals_a_loop_over_experts_forward_and_backward(device, score, normalize, activation):
    moe = make_moe(device, score_function=score, normalize_topk=normalize, activation=activation)
    x = tokens(device)
    x64 = x.detach().double().requires_grad_()
    dy = torch.randn(T, H, device=device)

    y = moe(x)
    y.backward(dy)
    expected, layers = loop_over_experts(moe, x64)
    expected.backward(dy.double())

    assert_elements_close(y, expected, depth=FFN)
    assert_elements_close(x.grad, x64.grad, depth=2 * FFN)
    own = {f"{name}.weight": layer.weight.grad for name, layer in layers.items()}
    for name, gradient in fuse_experts(own).items():
        assert_elements_close(moe.get_parameter(name).grad, gradient, depth=2 * T)


def test_it_equals_the_reference_loop_that_the_demo_compares_with(device):
    moe = make_moe(device, normalize_topk=True, aux_loss_coef=0.1)
    loop = LoopMoE(H, FFN, E, TOP_K, normalize_topk=True, aux_loss_coef=0.1).to(device)
    loop.load_state_dict(split_experts(moe.state_dict()))
    x = tokens(device)
    y, stats = moe(x, return_stats=True)
    expected, tokens_per_expert, aux_loss = loop(x)
    assert_elements_close(y, expected, depth=2 * FFN)
    assert stats.tokens_per_expert.tolist() == tokens_per_expert.tolist()
    assert_elements_close(stats.aux_loss, aux_loss, depth=T)


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_its_gradients_pass_gradcheck_in_float64(activation):
    moe = MoE(3, 4, 3, 2, activation=activation, aux_loss_coef=0.1, dtype=torch.float64)
    names, parameters = zip(*moe.named_parameters(), strict=True)

    def run(x, *weights):
        weights = dict(zip(names, weights, strict=True))
        y, stats = torch.func.functional_call(moe, weights, (x, True))
        return y, stats.aux_loss

    assert torch.autograd.gradcheck(run, (tokens("cpu", 6, 3, dtype=torch.float64), *parameters))


@pytest.mark.parametrize("shape", [(H,), (1, H), (3, 4, H), (2, 2, 2, H)])
def test_any_leading_dimensions_are_tokens(device, shape):
    moe = make_moe(device)
    x = tokens(device, *shape)
    y = moe(x)
    assert y.shape == shape
    assert_elements_close(y, loop_over_experts(moe, x.double().view(-1, H))[0].view(shape), FFN)


def test_a_transposed_input_is_read_by_its_strides(device):
    moe = make_moe(device)
    x = tokens(device, H, T).T
    assert_elements_close(moe(x), moe(x.contiguous()), depth=2 * FFN)


@pytest.mark.parametrize("shape", [(0, H), (2, 0, H)])
def test_no_tokens_give_an_empty_result_with_gradients_attached(device, shape):
    moe = make_moe(device, aux_loss_coef=0.1)
    x = tokens(device, *shape)
    y, stats = moe(x, return_stats=True)
    (y.sum() + stats.aux_loss).backward()
    assert y.shape == shape and x.grad.shape == shape
    assert stats.aux_loss == 0 and stats.tokens_per_expert.tolist() == [0] * E
    for parameter in moe.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_an_expert_without_tokens_gets_a_gradient_of_exact_zeros(device):
    moe = make_moe(device)
    x = tokens(device).detach().abs() + 0.1
    with torch.no_grad():
        moe.gate.weight[3] = -10.0
    y, stats = moe(x, return_stats=True)
    y.sum().backward()
    assert stats.tokens_per_expert[3] == 0
    for name in ("gate_up_proj", "down_proj"):
        gradient = getattr(moe.experts, name).grad
        assert not gradient[3].any()
        assert gradient[[0, 1, 2, 4]].flatten(1).any(dim=1).all()


def test_tokens_per_expert_counts_the_routers_choices(device):
    moe = make_moe(device)
    x = tokens(device)
    _, stats = moe(x, return_stats=True)
    expected = torch.bincount(moe.gate(x).indices.flatten(), minlength=E)
    assert stats.tokens_per_expert.tolist() == expected.tolist()
    assert stats.tokens_per_expert.sum() == T * TOP_K
    assert stats.tokens_per_expert.device == x.device
    assert not stats.tokens_per_expert.requires_grad


@pytest.mark.parametrize("spread", [1.0, 0.3])  # softmax scores, and sigmoid's that sum to less
def test_the_auxiliary_loss_is_one_when_balanced_and_e_when_one_expert_takes_all(spread):
    balanced = load_balancing_loss(torch.full((8, 4), spread / 4), torch.tensor([4, 4, 4, 4]))
    collapsed = load_balancing_loss(
        torch.tensor([[spread, 0, 0, 0]]).expand(8, 4), torch.tensor([8, 0, 0, 0])
    )
    assert balanced.item() == pytest.approx(1)
    assert collapsed.item() == pytest.approx(4)


def test_the_auxiliary_loss_follows_the_formula_of_switch_transformers(device):
    moe = make_moe(device, aux_loss_coef=0.5)
    x = tokens(device)
    _, stats = moe(x, return_stats=True)
    scores = (x.double() @ moe.gate.weight.double().T).softmax(-1)
    share = stats.tokens_per_expert.double() / (T * TOP_K)
    assert_elements_close(stats.aux_loss, 0.5 * E * (share * scores.mean(0)).sum(), depth=T)


def test_descending_the_auxiliary_loss_balances_the_experts(device):
    moe = make_moe(device, aux_loss_coef=1.0)
    x = tokens(device, 256, H).detach() + 0.5
    optimizer = torch.optim.SGD([moe.gate.weight], lr=0.3)
    loads = []
    for _ in range(50):
        _, stats = moe(x, return_stats=True)
        optimizer.zero_grad()
        stats.aux_loss.backward()
        optimizer.step()
        loads.append(stats.tokens_per_expert.max().item())
    assert loads[-1] < 1.15 * 256 * TOP_K / E < loads[0]


def test_the_auxiliary_loss_cannot_be_lost_by_oversight(device):
    moe = make_moe(device, aux_loss_coef=0.1)
    with pytest.raises(ValueError, match=r"MoE: argument return_stats got False; needs True"):
        moe(tokens(device))
    assert moe.eval()(tokens(device)).shape == (T, H)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_router_computes_in_float32_whatever_the_layers_dtype(device, dtype):
    moe = make_moe(device, dtype=dtype)
    x = tokens(device, dtype=dtype)
    routing = moe.gate(x)
    scores = (x.float() @ moe.gate.weight.float().T).softmax(-1)
    assert routing.probs.dtype == torch.float32
    assert_elements_close(routing.scores, scores, depth=H)
    assert torch.equal(routing.indices.long(), scores.topk(TOP_K).indices)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_layers_differ_by_their_rounding_alone(device, dtype):
    moe = make_moe(device, dtype=dtype)
    x = tokens(device, dtype=dtype)
    y = moe(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == moe.experts.down_proj.grad.dtype == dtype
    assert_elements_close(y, loop_over_experts(moe, x.double())[0], 1, torch.finfo(dtype).eps)


def test_under_autocast_the_experts_run_in_bfloat16_and_the_router_in_float32(device):
    moe = make_moe(device)
    x = tokens(device)
    with torch.autocast(device.type, torch.bfloat16):
        y = moe(x)
        routing = moe.gate(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert torch.equal(routing.scores, moe.gate(x).scores)
    assert x.grad.dtype == moe.experts.down_proj.grad.dtype == torch.float32
    assert_elements_close(y, loop_over_experts(moe, x.double())[0], 1, 2**-7)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_no_bit(device, use_reentrant):
    moe = make_moe(device, aux_loss_coef=0.1)
    x = tokens(device)

    def gradients(run):
        y, aux_loss = run(x)
        moe.zero_grad()
        x.grad = None
        (y.square().sum() + aux_loss).backward()
        return [y, aux_loss, x.grad, *(p.grad.clone() for p in moe.parameters())]

    def layer(x):
        y, stats = moe(x, return_stats=True)
        return y, stats.aux_loss

    plain = gradients(layer)
    recomputed = gradients(lambda x: checkpoint(layer, x, use_reentrant=use_reentrant))
    for a, b in zip(plain, recomputed, strict=True):
        assert torch.equal(a, b)


def test_it_compiles_as_one_graph_that_serves_every_routing(device):
    moe = make_moe(device, aux_loss_coef=0.1)
    compiled = torch.compile(moe, fullgraph=True)

    def gradients(layer, x):
        y, stats = layer(x, return_stats=True)
        loss = y.square().sum() + stats.aux_loss
        loss.backward()
        result = [x.grad, *(p.grad.clone() for p in moe.parameters())]
        moe.zero_grad()
        return y, stats, result

    for seed in range(3):
        torch.manual_seed(seed)
        x = tokens(device)
        again = x.detach().clone().requires_grad_()
        with torch._dynamo.config.patch(error_on_recompile=seed > 0):
            y, stats, result = gradients(compiled, x)
        expected_y, expected_stats, expected = gradients(moe, again)
        assert torch.equal(stats.tokens_per_expert, expected_stats.tokens_per_expert)
        assert_elements_close(stats.aux_loss, expected_stats.aux_loss, depth=T)
        assert_elements_close(y, expected_y, depth=2 * FFN)
        for a, b in zip(result, expected, strict=True):
            assert_elements_close(a, b, depth=4 * T)


def test_it_compiles_under_autocast(device):
    moe = make_moe(device)
    compiled = torch.compile(moe, fullgraph=True, backend="aot_eager")
    x = tokens(device)
    with torch.autocast(device.type, torch.bfloat16):
        y, expected = compiled(x), moe(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)


def test_it_can_be_made_on_the_meta_device_and_initialised_later(device):
    moe = MoE(H, FFN, E, TOP_K, device="meta").to_empty(device=device)
    torch.manual_seed(1)
    moe.reset_parameters()
    torch.manual_seed(1)
    expected = MoE(H, FFN, E, TOP_K, device=device)  # drawn on the device, as the other
    for a, b in zip(moe.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b) and a.abs().max() <= 1 / math.sqrt(a.shape[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, r"MoE: argument top_k got 0; needs 1 to num_experts=5"),
        ({"top_k": 6}, r"MoE: argument top_k got 6; needs 1 to num_experts=5"),
        ({"hidden_size": 0}, r"MoE: argument hidden_size got 0; needs at least 1"),
        ({"num_experts": -1}, r"MoE: argument num_experts got -1; needs at least 1"),
        ({"score_function": "relu"}, r"MoE: argument score_function got 'relu'; needs one of"),
        ({"activation": "tanh"}, r"MoE: argument activation got 'tanh'; needs one of"),
        ({"aux_loss_coef": -1.0}, r"MoE: argument aux_loss_coef got -1.0; needs 0 or more"),
    ],
)
def test_a_bad_constructor_argument_is_named(change, message):
    arguments = {"hidden_size": H, "ffn_hidden_size": FFN, "num_experts": E, "top_k": TOP_K}
    with pytest.raises(ValueError, match=message):
        MoE(**(arguments | change))


def test_a_wrong_width_and_a_wrong_dtype_are_named(device):
    moe = make_moe(device)
    with pytest.raises(ValueError, match=r"MoE: argument x got shape \(3, 23\); needs \[..., 24\]"):
        moe(torch.zeros(3, 23, device=device))
    with pytest.raises(TypeError, match=r"x got dtype torch.bfloat16; needs torch.float32"):
        moe(torch.zeros(3, H, device=device, dtype=torch.bfloat16))
