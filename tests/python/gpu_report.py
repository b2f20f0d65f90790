"""The evidence of a run on a GPU: `pytest tests/python --gpu-report PATH` writes it as JSON.

It says which machine ran which files (a hash of their contents) and what passed, failed and was
skipped. A run with a GPU path forced (GG_FORCE_PATH) is written beside the others, under its path's
name in "forced_paths", so that one report holds the paths of every generation: `make gpu-test
PATHS=sm70,sm75`. conftest.py registers this plugin; tools/gpu_report_status.py reads reports back.
"""

import collections
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TESTED_FOLDERS = ("include", "src", "python", "tests")
NOT_SOURCES = {".so", ".pyc", ".pyo", ".o", ".a", ".orig", ".rej", ".swp"}
REPORT = "tests/gpu_report.json"


def _is_source(relative):
    if relative.as_posix() == REPORT or relative.suffix in NOT_SOURCES:
        return False
    return not any(
        part.startswith(".") or part in ("__pycache__", "build") or part.endswith(".egg-info")
        for part in relative.parts
    )


def source_files(repository=REPOSITORY):
    """The tested files, as paths relative to the repository, in one order on every machine."""
    found = [
        path.relative_to(repository)
        for folder in TESTED_FOLDERS
        for path in (repository / folder).rglob("*")
        if path.is_file()
    ]
    return sorted((p for p in found if _is_source(p)), key=lambda p: p.as_posix())


def source_hash(repository=REPOSITORY):
    """sha256 over names and contents of the tested files; needs no git, ignores caches."""
    digest = hashlib.sha256()
    for relative in source_files(repository):
        contents = (repository / relative).read_bytes()
        digest.update(f"{relative.as_posix()}\0{len(contents)}\0".encode())
        digest.update(contents)
    return digest.hexdigest()


def machine():
    """GPU, driver and versions, as far as this machine tells."""
    import torch

    facts = {
        "gpu": None,
        "compute_capability": None,
        "num_gpus": torch.cuda.device_count(),
        "driver": None,
        "torch": torch.__version__,
        "cuda_toolkit_of_torch": torch.version.cuda,
        "cuda_toolkit_of_grouped_gemm": None,
        "architectures_of_grouped_gemm": None,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
        facts["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability(0)))
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]):
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        facts["driver"] = answer.stdout.split("\n")[0].strip() or None
    try:
        from grouped_gemm import _library

        path = _library.library_path(_library.CUDA_LIBRARY)
        if path is not None:
            info = _library.library_info(path)
            facts["cuda_toolkit_of_grouped_gemm"] = info.toolkit
            facts["architectures_of_grouped_gemm"] = info.architectures
    except (ImportError, AttributeError, OSError):
        pass  # the report says null
    return facts


def forced_path():
    """The path that the environment forces for this run, or None."""
    name = os.environ.get("GG_FORCE_PATH", "")
    return None if name in ("", "auto") else name


def merged(earlier, run, path):
    """The report after a run: under its forced path, or with the paths that were forced before.

    What an earlier report says of other sources is dropped.
    """
    same = earlier.get("sources_sha256") == run["sources_sha256"]
    forced = earlier.get("forced_paths", {}) if same else {}
    if path is None:
        return {**run, "forced_paths": forced}
    summary = {key: value for key, value in run.items() if key not in ("files", "sources_sha256")}
    report = earlier if same else {"sources_sha256": run["sources_sha256"]}
    return {**report, "forced_paths": dict(sorted({**forced, path: summary}.items()))}


class GpuReport:
    """A pytest plugin that counts outcomes by file and writes the report at the end."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.hash_at_start = source_hash()
        self.files = collections.defaultdict(collections.Counter)
        self.seconds = collections.Counter()
        self.skips = collections.Counter()
        self.failures = []

    def pytest_runtest_logreport(self, report):
        file = report.nodeid.split("::")[0]
        self.seconds[file] += report.duration
        if report.skipped:
            self.files[file]["skipped"] += 1
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "xfail"
            self.skips[reason.removeprefix("Skipped: ")] += 1
        elif report.failed:
            self.files[file]["failed"] += 1
            self.failures.append(f"{report.nodeid} ({report.when})")
        elif report.when == "call":
            self.files[file]["passed"] += 1

    def pytest_collectreport(self, report):
        if report.failed:
            self.files[report.nodeid]["failed"] += 1
            self.failures.append(f"{report.nodeid} (collection)")
        elif report.skipped:
            self.files[report.nodeid]["skipped"] += 1
            self.skips[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1

    def pytest_sessionfinish(self, session):
        totals = sum(self.files.values(), collections.Counter())
        outcomes = ("passed", "failed", "skipped")
        now = datetime.datetime.now(datetime.timezone.utc)
        contents = {
            "date": now.isoformat(timespec="seconds"),
            **machine(),
            "sources_sha256": self.hash_at_start,
            "sources_changed_during_run": self.hash_at_start != source_hash(),
            "selection": {
                "markers": session.config.option.markexpr,
                "keywords": session.config.option.keyword,
            },
            **{name: totals[name] for name in outcomes},
            "seconds": round(sum(self.seconds.values()), 1),
            "files": {
                file: {
                    **{name: self.files[file][name] for name in outcomes},
                    "seconds": round(self.seconds[file], 2),
                }
                for file in sorted(self.files)
            },
            "skip_reasons": dict(sorted(self.skips.items())),
            "failures": self.failures,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # forced paths run side by side
            file.seek(0)
            try:
                earlier = json.loads(file.read())
            except ValueError:
                earlier = {}
            contents = merged(earlier, contents, forced_path())
            file.truncate(0)
            file.write(json.dumps(contents, indent=1) + "\n")


def add_option(parser):
    parser.addoption(
        "--gpu-report", metavar="PATH", help="write what ran where, and how it ended, as JSON"
    )


def register(config):
    path = config.getoption("--gpu-report", default=None)
    if path:
        config.pluginmanager.register(GpuReport(path), "grouped_gemm_gpu_report")
