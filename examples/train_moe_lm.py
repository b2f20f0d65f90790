"""Trains a small Mixture-of-Experts language model on real text, on a CPU or a GPU.

    python examples/train_moe_lm.py                      # about two minutes on two CPU cores
    python examples/train_moe_lm.py --data FILE_OR_DIR   # your text
    python examples/train_moe_lm.py --resume runs/TIME   # goes on where Ctrl-C stopped it
    python examples/train_moe_lm.py --compare            # against a plain PyTorch loop over experts

The model predicts the next byte. A run leaves metrics.json, plot.png and checkpoint.pt in
runs/TIME/. This file holds the commands and the training loop; where the library is used stands in
moe_lm/model.py.
"""

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Threads sleep while they wait for each other: a fifth slower on an idle machine, several times
# faster on a busy one (2 cores, 2026-11-22). OpenMP reads this when PyTorch is imported. --compare
# leaves PyTorch as it is: sleeping threads slow the loop's many small steps more than ours.
if "--compare" not in sys.argv:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import grouped_gemm
import torch

from moe_lm.baselines import ngram_losses
from moe_lm.data import consecutive_windows, load_corpus
from moe_lm.model import generate
from moe_lm.trainer import Settings, Trainer

try:
    from rich.console import Console

    from moe_lm.compare import compare, print_comparison
    from moe_lm.report import ProgressReport, plot_run, print_results
except ModuleNotFoundError as missing:
    sys.exit(f"This example needs {missing.name}: pip install 'grouped_gemm[demo]'")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="a text file or a folder of them (default: Python's own sources)")
    add("--seconds", type=float, default=90, help="how long to train (default: %(default)s)")
    add("--steps", type=int, help="how many steps to train, instead of --seconds")
    add("--resume", type=Path, metavar="RUN", help="a run's folder or checkpoint to go on with")
    add(
        "--compare",
        type=int,
        nargs="?",
        const=40,
        metavar="N",
        help="time N steps of ours and of a loop",
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    add(
        "--runs", type=Path, default=Path("runs"), help="where runs are kept (default: %(default)s)"
    )
    add("--prompt", default="def ", help="how the sample begins (default: %(default)r)")
    return parser.parse_args(argv)


class InterruptRequest:
    """Turns the first Ctrl-C into a request to stop after the step; the second acts as usual."""

    def __enter__(self) -> "InterruptRequest":
        self.requested = False
        self.previous = signal.signal(signal.SIGINT, self._receive)
        return self

    def _receive(self, signum: int, frame: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self.previous)

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self.previous)


def train(trainer: Trainer, console: Console) -> bool:
    """Trains until the run is complete; False when Ctrl-C ended it before."""
    with InterruptRequest() as interrupt, ProgressReport(console, trainer.step) as report:
        while not trainer.is_complete():
            record = trainer.train_step()
            report.show_step(trainer.step, trainer.progress())
            if record is not None:
                report.show_record(record, trainer.progress())
                if trainer.is_check_due():
                    trainer.check()
            if interrupt.requested:
                return trainer.is_complete()
    return True


def start(args: argparse.Namespace, console: Console) -> tuple[Trainer, Path]:
    """A new run, or the one to resume, and its folder."""
    device = torch.device(args.device)
    if args.resume:
        folder = args.resume if args.resume.is_dir() else args.resume.parent
        state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
        args.data = Path(state["data"]) if state["data"] else None
        trainer = Trainer.resume(state, load_corpus(args.data), device)
        trainer.total_steps = args.steps or trainer.total_steps
        console.print(f"Resuming {folder} after step {trainer.step}", highlight=False)
    else:
        folder = args.runs / time.strftime("%Y%m%d-%H%M%S")
        settings = Settings.for_device(device, args.seconds, args.seed)
        trainer = Trainer(settings, load_corpus(args.data), device, args.steps)
    folder.mkdir(parents=True, exist_ok=True)
    describe(trainer, console)
    return trainer, folder


def describe(trainer: Trainer, console: Console) -> None:
    corpus, model = trainer.corpus, trainer.settings.model
    parameters = sum(p.numel() for p in trainer.model.parameters())
    console.print(
        f"{corpus.name}: {corpus.num_files} files, {len(corpus.train) / 1e6:.1f} MB to train on, "
        f"{len(corpus.validation) / 1e6:.2f} MB held out\n"
        f"{parameters / 1e6:.1f} million parameters in {model.layers} layers of {model.experts} "
        f"experts, {model.top_k} per token, on {trainer.device.type}",
        highlight=False,
    )


def write_metrics(path: Path, trainer: Trainer, results: dict[str, Any]) -> None:
    corpus = trainer.corpus
    metrics = {
        "versions": {"grouped_gemm": grouped_gemm.__version__, "torch": torch.__version__},
        "device": trainer.device.type,
        "data": {
            "name": corpus.name,
            "files": corpus.num_files,
            "train_bytes": len(corpus.train),
            "validation_bytes": len(corpus.validation),
        },
        "settings": asdict(trainer.settings),
        "steps": trainer.step,
        "training_seconds": trainer.seconds,
        **results,
        "checks": trainer.checks,
        "history": trainer.history,
    }
    path.write_text(json.dumps(metrics, indent=1))


def finish(trainer: Trainer, folder: Path, args: argparse.Namespace, console: Console) -> None:
    """Validation, baselines on the same bytes, a sample, the files of the run."""
    corpus = trainer.corpus
    inputs, _ = consecutive_windows(corpus.validation, trainer.settings.model.context)
    baselines = ngram_losses(corpus.train, corpus.validation[: inputs.numel() + 1])
    validation_loss = trainer.validation_loss()
    sample = generate(trainer.model, args.prompt.encode(), 400, args.seed)
    print_results(console, validation_loss, baselines, sample)
    results = {
        "validation_loss": validation_loss,
        "baselines": baselines,
        "sample": sample.decode("utf-8", errors="replace"),
    }
    write_metrics(folder / "metrics.json", trainer, results)
    plot_run(folder / "plot.png", trainer.history, trainer.checks, baselines)
    console.print(f"Wrote metrics.json, plot.png and checkpoint.pt to {folder}", highlight=False)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    console = Console()
    if args.compare is not None:
        device = torch.device(args.device)
        settings = Settings.for_device(device, args.seconds, args.seed)
        result = compare(settings, load_corpus(args.data), device, args.compare)
        print_comparison(console, result, device)
        return 0 if result.losses_agree else 1

    trainer, folder = start(args, console)
    complete = train(trainer, console)
    if trainer.step and trainer.step > trainer.history[-1]["step"]:
        trainer.finish_record()
    trainer.save(folder / "checkpoint.pt", str(args.data.resolve()) if args.data else None)
    if complete:
        finish(trainer, folder, args, console)
    else:
        write_metrics(folder / "metrics.json", trainer, {})
        plot_run(folder / "plot.png", trainer.history, trainer.checks, {})
        console.print(
            f"Stopped and saved after step {trainer.step}; go on with --resume {folder}",
            highlight=False,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
