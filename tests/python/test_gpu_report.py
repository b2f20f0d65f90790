"""The GPU report tells the truth: its hash follows the sources and nothing else."""

import json
import os
import pathlib
import subprocess
import sys

import gpu_report
import pytest

STATUS = gpu_report.REPOSITORY / "tools" / "gpu_report_status.py"


@pytest.fixture
def repository(tmp_path):
    for name in ("include/a.h", "src/b.cc", "python/c.py", "tests/cpp/d.cc", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_the_hash_covers_the_tested_folders_and_not_the_rest(repository):
    names = [path.as_posix() for path in gpu_report.source_files(repository)]
    assert names == ["include/a.h", "python/c.py", "src/b.cc", "tests/cpp/d.cc"]


@pytest.mark.parametrize(
    "name",
    [
        "python/__pycache__/c.cpython-311.pyc",
        "python/pkg/lib/x.so",
        "tests/.hypothesis/e",
        "tests/gpu_report.json",
        "README.md",
    ],
)
def test_caches_builds_and_the_report_itself_do_not_change_the_hash(repository, name):
    before = gpu_report.source_hash(repository)
    (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / name).write_text("anything")
    assert gpu_report.source_hash(repository) == before


@pytest.mark.parametrize("change", ["contents", "name", "new file", "removed"])
def test_every_change_of_a_source_changes_the_hash(repository, change):
    before = gpu_report.source_hash(repository)
    source = repository / "src" / "b.cc"
    if change == "contents":
        source.write_text("other")
    elif change == "name":
        source.rename(source.with_name("z.cc"))
    elif change == "new file":
        source.with_name("new.cc").write_text("")
    else:
        source.unlink()
    assert gpu_report.source_hash(repository) != before


TINY_SUITE = """
import pytest
def test_good(): pass
def test_bad(): assert False
@pytest.mark.skip(reason="needs the moon")
def test_skipped(): pass
"""


def run_tiny_suite(folder, report, forced=""):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--gpu-report",
            report,
            ".",
        ],
        cwd=folder,
        env={**os.environ, "GG_FORCE_PATH": forced},
        capture_output=True,
        check=False,
    )


@pytest.fixture
def report(tmp_path):
    """The report of a tiny suite with one test of each outcome."""
    (tmp_path / "test_tiny.py").write_text(TINY_SUITE)
    (tmp_path / "conftest.py").write_text(
        f"import sys; sys.path.insert(0, {str(pathlib.Path(gpu_report.__file__).parent)!r})\n"
        "import gpu_report\n"
        "pytest_addoption = gpu_report.add_option\n"
        "pytest_configure = gpu_report.register\n"
    )
    path = tmp_path / "out" / "report.json"
    run_tiny_suite(tmp_path, path)
    return path


def test_the_report_counts_outcomes_and_names_failures_and_skip_reasons(report):
    contents = json.loads(report.read_text())
    assert (contents["passed"], contents["failed"], contents["skipped"]) == (1, 1, 1)
    assert contents["files"]["test_tiny.py"]["passed"] == 1
    assert contents["skip_reasons"] == {"needs the moon": 1}
    assert contents["failures"] == ["test_tiny.py::test_bad (call)"]
    assert contents["sources_sha256"] == gpu_report.source_hash()
    for key in ("date", "gpu", "driver", "torch", "cuda_toolkit_of_grouped_gemm"):
        assert key in contents


def status(path):
    return subprocess.run(
        [sys.executable, STATUS, path], capture_output=True, text=True, check=False
    )


def test_the_status_says_whose_report_it_is_and_what_was_skipped(report):
    fresh = status(report)
    assert fresh.returncode == 0
    assert "belongs to these sources: yes" in fresh.stdout and "age: 0 days" in fresh.stdout
    assert "skipped 1: needs the moon" in fresh.stdout
    contents = json.loads(report.read_text())
    contents["sources_sha256"] = "0" * 64
    report.write_text(json.dumps(contents))
    stale = status(report)
    assert stale.returncode == 0 and "belongs to these sources: NO" in stale.stdout


def test_a_run_under_a_forced_path_stands_beside_the_others(report):
    own = json.loads(report.read_text())
    assert own["forced_paths"] == {}
    for path in ("sm75", "sm70"):
        run_tiny_suite(report.parent.parent, report, forced=path)
    contents = json.loads(report.read_text())
    assert list(contents["forced_paths"]) == ["sm70", "sm75"]
    forced = contents.pop("forced_paths")["sm75"]
    assert (forced["passed"], forced["failed"], forced["skipped"]) == (1, 1, 1)
    assert forced["failures"] == own["failures"] and "files" not in forced
    assert {**contents, "forced_paths": {}} == own, "what the device's own paths gave stays"
    lines = status(report).stdout
    assert "path sm70, forced:" in lines and lines.count("result: 1 passed, 1 failed") == 3


def test_forced_runs_of_other_sources_are_dropped():
    run = {"sources_sha256": "new", "passed": 1, "files": {}}
    stale = {"sources_sha256": "old", "passed": 7, "forced_paths": {"sm75": {"passed": 7}}}
    assert gpu_report.merged(stale, run, None) == {**run, "forced_paths": {}}
    only = gpu_report.merged(stale, run, "sm80")
    assert only == {"sources_sha256": "new", "forced_paths": {"sm80": {"passed": 1}}}
    assert gpu_report.merged(only, run, None)["forced_paths"] == {"sm80": {"passed": 1}}


def test_a_report_that_cannot_be_read_is_the_only_failure(tmp_path):
    assert status(tmp_path / "none.json").returncode == 1
    (tmp_path / "bad.json").write_text("{")
    assert status(tmp_path / "bad.json").returncode == 1
