"""One training run: model, optimizer, data position and history, and how they are saved.

Called by train_moe_lm.py, whose loop calls `Trainer.train_step` until the run is complete.
"""

import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .data import Corpus, RandomWindows, consecutive_windows
from .model import ModelConfig, ModelOutput, MoELanguageModel, next_byte_loss

WARMUP_STEPS = 50
LOG_EVERY = 10  # steps that one record of the history averages
NUM_CHECKS = 20  # how often a run looks at the validation text, at most
CHECK_WINDOWS = 64  # how much of it


@dataclass(frozen=True)
class Settings:
    """Everything that decides how a run goes, besides the text."""

    model: ModelConfig
    batch_size: int
    learning_rate: float
    seconds: float  # how long to train when the number of steps is not given
    seed: int

    @staticmethod
    def for_device(device: torch.device, seconds: float, seed: int) -> "Settings":
        """A model that the device can train in the time of a coffee."""
        if device.type == "cuda":
            return Settings(ModelConfig.large(), 32, 1e-3, seconds, seed)
        return Settings(ModelConfig.small(), 16, 4e-3, seconds, seed)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where a GPU computes it, float32 elsewhere."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )


def optimize(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, ModelOutput]:
    """One step of training: the loss (without the auxiliary part) and what the model gave."""
    inputs, targets = batch
    with autocast(inputs.device):
        output = model(inputs)
    loss = next_byte_loss(output.logits, targets)
    optimizer.zero_grad()
    (loss + output.aux_loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach(), output


class Trainer:
    """The state of a run. `save` writes all of it, `resume` goes on as if nothing had happened."""

    def __init__(
        self, settings: Settings, corpus: Corpus, device: torch.device, total_steps: int | None
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.corpus, self.device = settings, corpus, device
        self.total_steps = total_steps  # None: as many as fit into settings.seconds
        self.model = MoELanguageModel(settings.model).to(device)
        self.optimizer = make_optimizer(self.model, settings.learning_rate)
        config = settings.model
        self.batches = RandomWindows(
            corpus.train, settings.batch_size, config.context, settings.seed
        )
        self.step = 0
        self.seconds = 0.0  # of training until the last record, validation not counted
        self.history: list[dict[str, Any]] = []
        self.checks: list[dict[str, float]] = []
        self._start_record()

    def _start_record(self) -> None:
        config = self.settings.model
        self._record_start = self.step
        self._loss_sum = torch.zeros((), device=self.device)
        self._load_sum = torch.zeros(config.layers, config.experts, device=self.device)
        self._clock = time.perf_counter()

    def progress(self) -> float:
        """How much of the run is done, 0 to 1."""
        if self.total_steps is not None:
            return min(self.step / max(self.total_steps, 1), 1.0)
        return min(self.seconds / self.settings.seconds, 1.0)

    def is_complete(self) -> bool:
        return self.progress() >= 1

    def learning_rate(self) -> float:
        """Linear warm-up over the first steps, times a cosine down to a twentieth at the end."""
        warmup = min(1, (self.step + 1) / WARMUP_STEPS)
        cosine = 0.05 + 0.95 * (1 + math.cos(math.pi * self.progress())) / 2
        return self.settings.learning_rate * warmup * cosine

    def train_step(self) -> dict[str, Any] | None:
        """Trains one step; returns the new record of the history when one is complete.

        Only records read from the device, so a GPU works ahead between them.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss, output = optimize(self.model, self.optimizer, self.batches.next(self.device))
        self._loss_sum += loss
        self._load_sum += output.tokens_per_expert
        self.step += 1
        if self.step == 1 or self.step % LOG_EVERY == 0 or self.is_complete():
            return self.finish_record()
        return None

    def finish_record(self) -> dict[str, Any]:
        """Averages the steps since the last record: loss, speed, each expert's share of tokens."""
        num_steps = max(self.step - self._record_start, 1)
        loss = self._loss_sum.item() / num_steps  # waits for the device, so the clock is right
        seconds = time.perf_counter() - self._clock
        tokens = num_steps * self.settings.batch_size * self.settings.model.context
        share = self._load_sum / self._load_sum.sum(1, keepdim=True).clamp_min(1)
        record = {
            "step": self.step,
            "loss": loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens_per_second": tokens / seconds,
            "expert_share": [[round(s, 4) for s in layer] for layer in share.tolist()],
        }
        self.history.append(record)
        self.seconds += seconds
        self._start_record()
        return record

    def is_check_due(self) -> bool:
        return self.progress() * NUM_CHECKS >= len(self.checks) + 1

    def check(self) -> float:
        """The loss on a fixed part of the validation text, kept for the plot; after a record."""
        loss = self.validation_loss(max_windows=CHECK_WINDOWS)
        self.checks.append({"step": self.step, "loss": loss})
        self._clock = time.perf_counter()  # this took none of the training time
        return loss

    @torch.inference_mode()
    def validation_loss(self, max_windows: int | None = None) -> float:
        """Nats per byte over the validation text, or over windows spread evenly through it."""
        inputs, targets = consecutive_windows(self.corpus.validation, self.settings.model.context)
        if max_windows is not None:
            stride = math.ceil(len(inputs) / max_windows)
            inputs, targets = inputs[::stride], targets[::stride]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.model.eval()
        for x, y in zip(inputs.split(64), targets.split(64), strict=True):
            with autocast(self.device):
                logits = self.model(x.to(self.device).long()).logits
            total += next_byte_loss(logits, y.to(self.device).long()).double() * y.numel()
        self.model.train()
        return total.item() / targets.numel()

    def save(self, path: Path, data: str | None) -> None:
        """Writes everything that `resume` needs; an interrupted write leaves the old file whole."""
        state = {
            "settings": asdict(self.settings),
            "data": data,
            "checksum": self.corpus.checksum,
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "history": self.history,
            "checks": self.checks,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    @staticmethod
    def resume(state: dict[str, Any], corpus: Corpus, device: torch.device) -> "Trainer":
        """The run that `save` wrote down; it goes on with the same numbers on the same machine."""
        if state["checksum"] != corpus.checksum:
            raise SystemExit(f"--resume: {corpus.name} is not the text that the run began with")
        settings = dict(state["settings"])
        settings["model"] = ModelConfig(**settings["model"])
        trainer = Trainer(Settings(**settings), corpus, device, state["total_steps"])
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.batches.generator.set_state(state["batches"])
        torch.set_rng_state(state["rng"])
        if device.type == "cuda" and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        trainer.step, trainer.seconds = state["step"], state["seconds"]
        trainer.history, trainer.checks = state["history"], state["checks"]
        trainer._start_record()
        return trainer
