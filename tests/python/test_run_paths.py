"""tools/run_paths.py: every path is run to its end, and one that failed is named."""

import importlib.util
import sys

import gpu_report
import pytest

SCRIPT = gpu_report.REPOSITORY / "tools" / "run_paths.py"
TELL = "import os; print(os.environ['GG_FORCE_PATH'], os.environ['CUDA_VISIBLE_DEVICES'])"
SLOW_UNDER_SM70 = "import os, time; time.sleep(1.5 if os.environ['GG_FORCE_PATH'] == 'sm70' else 0)"
FAIL_UNDER_SM75 = "import os, sys; sys.exit(os.environ['GG_FORCE_PATH'] == 'sm75')"


@pytest.fixture
def run_paths(monkeypatch):
    spec = importlib.util.spec_from_file_location("run_paths", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "num_gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def test_all_paths_run_each_on_its_gpu_and_the_failed_one_is_named(run_paths, tmp_path, capsys):
    commands = {
        "C++": [sys.executable, "-c", FAIL_UNDER_SM75],
        "Python": [sys.executable, "-c", f"{SLOW_UNDER_SM70}; {TELL}"],
    }
    failed = run_paths.run_side_by_side(["sm70", "sm75", "sm80"], tmp_path, commands)
    assert failed == ["sm75"]
    logs = [(tmp_path / f"gpu-test-sm{name}.log").read_text() for name in (70, 75, 80)]
    assert logs == ["sm70 0,1\n", "sm75 1,0\n", "sm80 0,1\n"], "after a failure, too"
    told = capsys.readouterr().out
    assert told.count("sm75: C++ FAILED") == 1 and told.count("sm75: Python passed") == 1


def test_gpus_that_the_environment_picked_stay_the_only_ones(run_paths, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert run_paths.gpus_from(1, 8) == {"CUDA_VISIBLE_DEVICES": "5,3"}
