"""Transformer Engine's fused router (its CUDA part): weights and mask as [T, E]."""

import importlib
from collections.abc import Callable

import torch

PART = "transformer_engine.pytorch.router"


class FusedRouter:
    name = "te-router"

    def available(self, device) -> str | None:
        if device.type != "cuda":
            return "needs a CUDA device"
        try:
            importlib.import_module(PART).fused_topk_with_score_function  # noqa: B018
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            return f"not importable: {error}"
        return None

    def supports(self, case) -> str | None:
        return None if case.op in ("route", "route_bwd") else "routing only"

    def remark(self, case) -> str:
        return "weights and mask [T, E], no ids, no counts"

    def build(self, case, r) -> Callable[[], object]:
        route = importlib.import_module(PART).fused_topk_with_score_function

        def forward(logits):
            return route(
                logits,
                r.topk,
                use_pre_softmax=False,
                num_groups=None,
                group_topk=None,
                scaling_factor=None,
                score_function="softmax",
                expert_bias=None,
            )

        if case.op == "route":

            def call():
                with torch.no_grad():
                    return forward(r.logits)

            return call
        logits = r.logits.clone().requires_grad_()
        probs, _ = forward(logits)
        probs_grad = torch.zeros_like(probs).scatter(1, r.indices, r.probs_grad)
        return lambda: torch.autograd.grad(probs, logits, probs_grad, retain_graph=True)


PEERS = [FusedRouter()]
