"""State dicts of `grouped_gemm.nn.MoE`: its own names, and those of per-expert checkpoints."""

import pytest
import torch
from grouped_gemm.nn import MoE, fuse_experts, split_experts

H, FFN, E, TOP_K = 6, 10, 3, 2
MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
QWEN3 = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
NAMINGS = pytest.mark.parametrize("names", [MIXTRAL, QWEN3], ids=["mixtral", "qwen3"])


def per_expert_weights(names, prefix="", num_experts=E):
    torch.manual_seed(0)
    shapes = {"gate": (FFN, H), "up": (FFN, H), "down": (H, FFN)}
    weights = {f"{prefix}gate.weight": torch.randn(num_experts, H)}
    for e in range(num_experts):
        for role, name in names.items():
            weights[f"{prefix}experts.{e}.{name}.weight"] = torch.randn(shapes[role])
    return weights


@pytest.mark.parametrize(
    ("activation", "shapes"),
    [
        (
            "swiglu",
            {
                "gate.weight": (E, H),
                "experts.gate_up_proj": (E, 2 * FFN, H),
                "experts.down_proj": (E, H, FFN),
            },
        ),
        (
            "gelu",
            {
                "gate.weight": (E, H),
                "experts.up_proj": (E, FFN, H),
                "experts.down_proj": (E, H, FFN),
            },
        ),
    ],
)
def test_parameters_are_named_and_shaped_as_in_transformers(activation, shapes):
    moe = MoE(H, FFN, E, TOP_K, activation=activation)
    assert {name: tuple(w.shape) for name, w in moe.state_dict().items()} == shapes


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_a_state_dict_survives_a_round_trip_through_a_file(tmp_path, activation):
    moe = MoE(H, FFN, E, TOP_K, activation=activation)
    torch.save(moe.state_dict(), tmp_path / "moe.pt")
    other = MoE(H, FFN, E, TOP_K, activation=activation)
    other.load_state_dict(torch.load(tmp_path / "moe.pt", weights_only=True))
    x = torch.randn(7, H)
    assert torch.equal(moe(x), other(x))


@NAMINGS
@pytest.mark.parametrize("prefix", ["", "model.layers.0.block_sparse_moe."])
def test_per_expert_weights_land_in_their_place(names, prefix):
    weights = per_expert_weights(names, prefix) | {"model.norm.weight": torch.ones(H)}
    if not prefix:
        del weights["model.norm.weight"]
    moe = MoE(H, FFN, E, TOP_K)
    moe.load_per_expert_state_dict(weights, prefix)
    assert torch.equal(moe.gate.weight, weights[f"{prefix}gate.weight"])
    for e in range(E):
        gate, up, down = (
            weights[f"{prefix}experts.{e}.{names[role]}.weight"] for role in ("gate", "up", "down")
        )
        assert torch.equal(moe.experts.gate_up_proj[e, :FFN], gate)
        assert torch.equal(moe.experts.gate_up_proj[e, FFN:], up)
        assert torch.equal(moe.experts.down_proj[e], down)


def test_experts_without_a_gate_load_into_a_gelu_layer():
    names = {role: name for role, name in QWEN3.items() if role != "gate"}
    weights = per_expert_weights(names)
    moe = MoE(H, FFN, E, TOP_K, activation="gelu")
    moe.load_per_expert_state_dict(weights)
    assert torch.equal(moe.experts.up_proj[1], weights["experts.1.up_proj.weight"])


def test_more_than_ten_experts_keep_their_order():
    weights = per_expert_weights(MIXTRAL, num_experts=12)
    fused = fuse_experts(dict(sorted(weights.items())))  # "experts.10" sorts before "experts.2"
    assert torch.equal(fused["experts.down_proj"][10], weights["experts.10.w2.weight"])
    assert torch.equal(fused["experts.down_proj"][2], weights["experts.2.w2.weight"])


@NAMINGS
def test_a_whole_models_state_dict_is_fused_and_split_back(names):
    weights = {"embed.weight": torch.randn(4, H)}
    for layer in range(2):
        weights |= per_expert_weights(names, f"layers.{layer}.mlp.")
    weights["layers.1.mlp.shared_expert.up_proj.weight"] = torch.randn(FFN, H)
    fused = fuse_experts(weights)
    assert "layers.1.mlp.experts.gate_up_proj" in fused and len(fused) == 2 + 2 * 3
    back = split_experts(fused, "mixtral" if names is MIXTRAL else "qwen3")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_a_missing_expert_weight_is_named():
    weights = per_expert_weights(MIXTRAL)
    del weights["experts.1.w3.weight"]
    with pytest.raises(ValueError, match=r"fuse_experts: .* no up weight of experts \[1\]"):
        fuse_experts(weights)


def test_experts_of_different_shapes_are_refused():
    weights = per_expert_weights(QWEN3)
    weights["experts.2.down_proj.weight"] = torch.zeros(H, FFN + 1)
    with pytest.raises(ValueError, match=r"down weights of shapes \[\(6, 10\), \(6, 11\)\]"):
        fuse_experts(weights)


def test_two_namings_in_one_layer_are_refused():
    with pytest.raises(ValueError, match=r"got two gate weights of expert 0"):
        fuse_experts(per_expert_weights(MIXTRAL) | per_expert_weights(QWEN3))


def test_a_checkpoint_of_another_size_is_refused():
    moe = MoE(H, FFN, E + 1, TOP_K)
    with pytest.raises(RuntimeError, match=r"size mismatch for experts.gate_up_proj"):
        moe.load_per_expert_state_dict(per_expert_weights(QWEN3))


def test_a_prefix_that_no_key_has_is_refused():
    moe = MoE(H, FFN, E, TOP_K)
    with pytest.raises(ValueError, match=r"MoE: argument prefix got 'mlp\.'; .* 'gate\.weight'"):
        moe.load_per_expert_state_dict(per_expert_weights(QWEN3), prefix="mlp.")


def test_an_unknown_naming_is_refused():
    with pytest.raises(ValueError, match=r"split_experts: argument naming got 'llama'"):
        split_experts({}, "llama")
