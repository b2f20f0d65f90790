"""Converts state dicts between one weight per expert and one weight for all experts.

Called by `MoE.load_per_expert_state_dict`, and by users who convert whole checkpoints: other keys
pass through untouched. Three namings exist in the field, here for gate, up and down:

    Mixtral        experts.{i}.w1.weight, experts.{i}.w3.weight, experts.{i}.w2.weight
    Qwen3          experts.{i}.gate_proj.weight, ...up_proj.weight, ...down_proj.weight
    Transformers   experts.gate_up_proj [E, 2f, h] with the gate first, experts.down_proj [E, h, f]

Experts without a gate (GELU) have `up_proj` and `down_proj` alone, and `experts.up_proj` [E, f, h].
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

# The checkpoint's name of each of an expert's three weights, per naming.
_NAMES = {
    "mixtral": {"gate": "w1", "up": "w3", "down": "w2"},
    "qwen3": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
}
_ROLE_OF = {name: role for names in _NAMES.values() for role, name in names.items()}
_PER_EXPERT = re.compile(rf"(.*\b)?experts\.(\d+)\.({'|'.join(_ROLE_OF)})\.weight")
_FUSED = re.compile(r"(.*\b)?experts\.(gate_up_proj|up_proj|down_proj)")


def fuse_experts(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack each layer's per-expert weights, in Mixtral's or Qwen3's naming, into ours.

    The layers are told apart by what stands before `experts.`, so a whole model's state dict may be
    given. Raises ValueError when a layer lacks a weight of some expert or mixes namings or shapes.
    """
    fused: dict[str, Tensor] = {}
    layers: dict[str, dict[tuple[int, str], Tensor]] = defaultdict(dict)
    for key, value in state_dict.items():
        match = _PER_EXPERT.fullmatch(key)
        if match is None:
            fused[key] = value
            continue
        prefix, expert, role = match[1] or "", int(match[2]), _ROLE_OF[match[3]]
        if (expert, role) in layers[prefix]:
            raise ValueError(
                f"fuse_experts: argument state_dict got two {role} weights of expert {expert} "
                f"under {prefix + 'experts.'!r}; needs one naming, Mixtral's or Qwen3's; "
                "remove the other"
            )
        layers[prefix][expert, role] = value

    for prefix, weights in layers.items():
        down = _stack(prefix, weights, "down")
        up = _stack(prefix, weights, "up")
        if any(role == "gate" for _, role in weights):
            gate_up = torch.cat([_stack(prefix, weights, "gate"), up], dim=1)
            fused[f"{prefix}experts.gate_up_proj"] = gate_up
        else:
            fused[f"{prefix}experts.up_proj"] = up
        fused[f"{prefix}experts.down_proj"] = down
    return fused


def _stack(prefix: str, weights: Mapping[tuple[int, str], Tensor], role: str) -> Tensor:
    """One role's weights of all experts of a layer, as [E, rows, columns]."""
    num_experts = 1 + max(expert for expert, _ in weights)
    missing = [e for e in range(num_experts) if (e, role) not in weights]
    if missing:
        raise ValueError(
            f"fuse_experts: argument state_dict got no {role} weight of experts {missing} under "
            f"{prefix + 'experts.'!r}; needs those of all {num_experts} experts; "
            "merge the checkpoint's shards first"
        )
    stacked = [weights[e, role] for e in range(num_experts)]
    shapes = {tuple(weight.shape) for weight in stacked}
    if len(shapes) > 1:
        raise ValueError(
            f"fuse_experts: argument state_dict got {role} weights of shapes {sorted(shapes)} "
            f"under {prefix + 'experts.'!r}; needs one shape for all experts; check the checkpoint"
        )
    return torch.stack(stacked)


def split_experts(
    state_dict: Mapping[str, Tensor], naming: Literal["mixtral", "qwen3"] = "qwen3"
) -> dict[str, Tensor]:
    """The inverse of `fuse_experts`: one weight per expert, as views of the stacked tensors."""
    if naming not in _NAMES:
        raise ValueError(
            f"split_experts: argument naming got {naming!r}; needs one of {tuple(_NAMES)}; "
            "choose one of them"
        )
    split: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        match = _FUSED.fullmatch(key)
        if match is None:
            split[key] = value
            continue
        prefix, name = match[1] or "", match[2]
        if name == "gate_up_proj":
            halves = zip(("gate", "up"), value.chunk(2, dim=1), strict=True)
        else:
            halves = [(name.removesuffix("_proj"), value)]
        for role, stacked in halves:
            for expert, weight in enumerate(stacked):
                split[f"{prefix}experts.{expert}.{_NAMES[naming][role]}.weight"] = weight
    return split
