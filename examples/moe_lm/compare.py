"""Our layer against a plain PyTorch loop over experts: one model, the same steps, side by side.

Called by `train_moe_lm.py --compare`. Both models begin with the same weights and see the same
batches; each step is timed for one and then the other, so that a busy machine slows both alike.
"""

import statistics
import time
from dataclasses import dataclass

import torch
from grouped_gemm.nn import split_experts
from grouped_gemm.reference import LoopMoE
from rich.console import Console
from torch import Tensor, nn

from .data import Corpus, RandomWindows
from .model import ModelConfig, MoELanguageModel
from .trainer import Settings, make_optimizer, optimize

UNTIMED_STEPS = 3


class LoopLayer(LoopMoE):
    """`LoopMoE` with the return value of `grouped_gemm.nn.MoE`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            config.width,
            config.ffn_width,
            config.experts,
            config.top_k,
            normalize_topk=True,
            aux_loss_coef=config.aux_loss_coef,
        )

    def forward(self, x: Tensor, return_stats: bool = True) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, tokens_per_expert, aux_loss = super().forward(x)
        return y, (tokens_per_expert, aux_loss)


@dataclass
class Comparison:
    """What `compare` found; times in seconds, one per timed step."""

    ours: list[float]
    loop: list[float]
    our_losses: list[float]
    loop_losses: list[float]
    tolerance: float

    @property
    def speedup(self) -> float:
        """Above 1 our layer is the faster one."""
        return statistics.median(self.loop) / statistics.median(self.ours)

    @property
    def largest_difference(self) -> float:
        pairs = zip(self.our_losses, self.loop_losses, strict=True)
        return max(abs(a - b) / b for a, b in pairs)

    @property
    def losses_agree(self) -> bool:
        return self.largest_difference <= self.tolerance


def compare(settings: Settings, corpus: Corpus, device: torch.device, steps: int) -> Comparison:
    """Trains both models for `steps` timed steps."""
    torch.manual_seed(settings.seed)
    ours = MoELanguageModel(settings.model).to(device)
    loop = MoELanguageModel(settings.model, make_ffn=LoopLayer).to(device)
    loop.load_state_dict(split_experts(ours.state_dict()))
    models = [ours, loop]
    # a part of the peak rate, since so few steps leave no time to warm up
    optimizers = [make_optimizer(model, settings.learning_rate / 4) for model in models]
    batches = RandomWindows(
        corpus.train, settings.batch_size, settings.model.context, settings.seed
    )
    times: list[list[float]] = [[], []]
    losses: list[list[float]] = [[], []]
    for step in range(UNTIMED_STEPS + steps):
        batch = batches.next(device)
        for i in (0, 1) if step % 2 == 0 else (1, 0):
            seconds, loss = timed_step(models[i], optimizers[i], batch)
            losses[i].append(loss)
            if step >= UNTIMED_STEPS:
                times[i].append(seconds)
    # float32 differs by the order of its sums; in bfloat16 a rounded token changes its experts
    tolerance = 2e-2 if device.type == "cuda" else 1e-3
    return Comparison(*times, *losses, tolerance)


def timed_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    start = time.perf_counter()
    loss, _ = optimize(model, optimizer, batch)
    value = loss.item()
    if loss.is_cuda:
        torch.cuda.synchronize(loss.device)  # the optimizer's step comes after the loss
    return time.perf_counter() - start, value


def print_comparison(console: Console, result: Comparison, device: torch.device) -> None:
    def milliseconds(times: list[float]) -> str:
        return f"{1e3 * statistics.median(times):.1f} ms"

    console.print(
        f"{len(result.ours)} steps of each, in turn, on {device.type}; medians:\n"
        f"  grouped_gemm.nn.MoE   {milliseconds(result.ours)}\n"
        f"  loop over experts     {milliseconds(result.loop)}\n"
        f"  step-time ratio       {result.speedup:.2f} (loop / ours; above 1 ours is faster)\n"
        f"  losses                {'agree' if result.losses_agree else 'DISAGREE'}: at most "
        f"{result.largest_difference:.1e} apart, of {result.tolerance:.0e} allowed "
        f"(last: {result.our_losses[-1]:.4f} and {result.loop_losses[-1]:.4f})",
        highlight=False,
    )
