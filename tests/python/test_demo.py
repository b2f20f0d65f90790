"""The example `examples/train_moe_lm.py`: short runs of its commands, and what its numbers mean.

Everything runs on the CPU with a temporary text, so that these tests take seconds; the run that
must beat the trigram model is the example itself.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="needs the extra [demo]")
pytest.importorskip("matplotlib", reason="needs the extra [demo]")

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import train_moe_lm  # noqa: E402
from moe_lm import compare as comparison  # noqa: E402
from moe_lm.baselines import ngram_losses  # noqa: E402
from moe_lm.data import consecutive_windows, load_corpus  # noqa: E402
from moe_lm.model import ModelConfig  # noqa: E402
from moe_lm.trainer import Settings, Trainer  # noqa: E402

TINY = ModelConfig(16, 2, 2, experts=4, top_k=2, ffn_width=16, context=16)


def as_bytes(text):
    return torch.tensor(list(text), dtype=torch.uint8)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i} says {i * i % 97} times hello\n" for i in range(1500)))
    return path


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models wait longer for other threads than these save."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def small_runs(monkeypatch):
    """Lets the example's commands run with a tiny model."""
    settings = Settings(TINY, batch_size=4, learning_rate=1e-2, seconds=1, seed=0)
    monkeypatch.setattr(Settings, "for_device", staticmethod(lambda *args: settings))


def run(*arguments):
    return train_moe_lm.main(["--device", "cpu", *map(str, arguments)])


def only_run(folder):
    (path,) = folder.iterdir()
    return path


def test_a_run_prints_its_progress_and_leaves_metrics_plot_and_checkpoint(text_file, tmp_path):
    command = [sys.executable, EXAMPLES / "train_moe_lm.py", "--steps", "3", "--device", "cpu"]
    command += ["--data", text_file, "--runs", tmp_path / "runs"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    for words in (
        r"step 1 \(33%\)  loss \d\.\d+",
        r"step 3 \(100%\)",
        "tokens/s",
        "experts",
        "trigram",
        "this model",
    ):
        assert re.search(words, done.stdout), words

    folder = only_run(tmp_path / "runs")
    assert {f.name for f in folder.iterdir()} == {"metrics.json", "plot.png", "checkpoint.pt"}
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [record["step"] for record in metrics["history"]] == [1, 3]
    assert all(math.isfinite(record["loss"]) for record in metrics["history"])
    for layer in metrics["history"][-1]["expert_share"]:
        assert sum(layer) == pytest.approx(1, abs=1e-3)
    assert metrics["baselines"].keys() == {"unigram", "bigram", "trigram"}
    assert 0 < metrics["validation_loss"] < math.log(256) + 0.5
    assert metrics["sample"].startswith("def ")


def test_ctrl_c_saves_and_resume_goes_on_as_if_nothing_had_happened(
    text_file, tmp_path, small_runs, monkeypatch, capsys
):
    run("--data", text_file, "--steps", 24, "--runs", tmp_path / "whole")

    class InterruptedReport(train_moe_lm.ProgressReport):
        def show_step(self, step, progress):
            if step == 13:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(train_moe_lm, "ProgressReport", InterruptedReport)
        run("--data", text_file, "--steps", 24, "--runs", tmp_path / "parts")
    folder = only_run(tmp_path / "parts")
    assert "Stopped and saved after step 13" in capsys.readouterr().out
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 13
    run("--resume", folder)

    whole, parts = (
        torch.load(only_run(tmp_path / name) / "checkpoint.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert parts["step"] == whole["step"] == 24
    assert torch.equal(parts["batches"], whole["batches"])
    for name, weight in whole["model"].items():
        assert torch.equal(parts["model"][name], weight), name
    for i, state in whole["optimizer"]["state"].items():
        assert torch.equal(parts["optimizer"]["state"][i]["exp_avg_sq"], state["exp_avg_sq"])
    assert [r["step"] for r in parts["history"]] == [1, 10, 13, 20, 24]


def test_resuming_on_another_text_is_refused(text_file, tmp_path, small_runs):
    run("--data", text_file, "--steps", 1, "--runs", tmp_path / "runs")
    text_file.write_text(text_file.read_text().replace("hello", "world"))
    with pytest.raises(SystemExit, match="is not the text that the run began with"):
        run("--resume", only_run(tmp_path / "runs"))


def test_compare_reports_the_ratio_and_that_the_losses_agree(text_file, small_runs, capsys):
    assert run("--data", text_file, "--compare", 5) == 0
    printed = capsys.readouterr().out
    assert re.search(r"step-time ratio\s+\d+\.\d\d", printed)
    assert re.search(r"losses\s+agree: at most", printed)


def test_compare_fails_when_the_losses_disagree(text_file, small_runs, monkeypatch, capsys):
    right = comparison.LoopLayer.forward

    def wrong(self, x, return_stats=True):
        y, stats = right(self, x)
        return 1.1 * y, stats

    monkeypatch.setattr(comparison.LoopLayer, "forward", wrong)
    assert run("--data", text_file, "--compare", 5) == 1
    assert "DISAGREE" in capsys.readouterr().out


def test_without_a_number_of_steps_training_ends_when_its_time_is_over(text_file):
    settings = Settings(TINY, batch_size=4, learning_rate=1e-2, seconds=0.5, seed=0)
    trainer = Trainer(settings, load_corpus(text_file), torch.device("cpu"), total_steps=None)
    rates = []
    while not trainer.is_complete():
        assert trainer.seconds < 0.5
        trainer.train_step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert trainer.seconds >= 0.5 and trainer.step % 10 == 0
    assert max(rates) <= 1e-2 and rates[-1] < max(rates)


def test_training_beats_the_unigram_model_within_a_hundred_steps(text_file):
    settings = Settings(TINY, batch_size=16, learning_rate=1e-2, seconds=0, seed=0)
    corpus = load_corpus(text_file)
    trainer = Trainer(settings, corpus, torch.device("cpu"), total_steps=100)
    while not trainer.is_complete():
        trainer.train_step()
    unigram = ngram_losses(corpus.train, corpus.validation)["unigram"]
    assert trainer.validation_loss() < 0.8 * unigram


def test_the_default_text_is_the_standard_library_without_tests_and_tables():
    corpus = load_corpus()
    train = bytes(corpus.train.numpy())
    assert corpus.num_files > 300 and len(train) > 4e6
    assert b"class OrderedDict" in train + bytes(corpus.validation.numpy())
    assert 0.02 < len(corpus.validation) / len(train) < 0.1


def test_text_is_split_by_file_and_skips_hidden_and_binary_files(tmp_path):
    for i in range(100):
        (tmp_path / f"{i}.txt").write_text(f"<{i}>" * 50)
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / "binary").write_bytes(b"\0secret")
    corpus = load_corpus(tmp_path)
    train, held_out = (
        set(re.findall(rb"<\d+>", bytes(part.numpy())))
        for part in (corpus.train, corpus.validation)
    )
    assert len(train) + len(held_out) == corpus.num_files == 100
    assert not train & held_out and 2 <= len(held_out) <= 5
    assert b"secret" not in bytes(corpus.train.numpy()) + bytes(corpus.validation.numpy())


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="got no text files"):
        load_corpus(tmp_path)


def test_the_validation_windows_predict_each_byte_once():
    inputs, targets = consecutive_windows(as_bytes(range(10)), context=3)
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert targets.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_ngram_losses_equal_the_formula_worked_by_hand():
    # "aab" counts a 2, b 1 of two kinds; "aa" and "ab" follow a once each
    losses = ngram_losses(as_bytes(b"aab"), as_bytes(b"ab"))
    a, b = (2 + 2 / 256) / 5, (1 + 2 / 256) / 5
    assert losses["unigram"] == pytest.approx(-(math.log(a) + math.log(b)) / 2)
    assert losses["bigram"] == pytest.approx(-math.log((1 + 2 * b) / 4))


def test_a_context_never_seen_falls_back_on_the_lower_order():
    losses = ngram_losses(as_bytes(b"aab"), as_bytes(b"xa"))
    assert losses["bigram"] == pytest.approx(-math.log((2 + 2 / 256) / 5))
