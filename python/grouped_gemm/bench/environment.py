"""Where a run was made: source, GPU, driver, toolkit, torch, clocks seen, date, command."""

from __future__ import annotations

import datetime
import hashlib
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

import torch

_PATH_OPTIONS = ("--json", "--against", "--peers", "--peer-path")
_QUERY = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


def describe(device: torch.device, package: pathlib.Path, facts: dict) -> dict:
    """What the JSON says of the machine; ``facts``: what the package says of its libraries."""
    environment = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command(sys.argv[2:]),
        "device": "cpu",
        "device_name": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "source": source(package),
        **facts,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        environment |= {
            "device": "cuda",
            "device_name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "sms": properties.multi_processor_count,
            "driver": _smi("driver_version"),
            "power_limit_w": _smi("power.limit"),
        }
    return environment


def source(package: pathlib.Path) -> str:
    """The commit where git knows it, with a hash of what differs, else a hash of the sources."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if "bench" not in path.relative_to(package).parts:
            digest.update(path.read_bytes())
    root = package.parents[1]
    for folder in ("src", "include"):
        for path in sorted((root / folder).rglob("*")) if (root / folder).is_dir() else ():
            if path.is_file():
                digest.update(path.read_bytes())
    short = digest.hexdigest()[:12]
    commit = _run("git", "-C", str(package), "rev-parse", "--short=12", "HEAD")
    return f"commit {commit}, sources {short}" if commit else f"sources {short}"


def command(arguments: list[str]) -> str:
    """What to type to get the same run; where its files went does not matter."""
    kept = ["python -m grouped_gemm bench"]
    skip = False
    for argument in arguments:
        name = argument.split("=")[0]
        is_path = name in _PATH_OPTIONS
        if not (skip or is_path or name == "--plain"):
            kept.append(f"'{argument}'" if "*" in argument else argument)
        skip = is_path and "=" not in argument
    return " ".join(kept)


def _cpu_name() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _smi(field: str) -> str | None:
    text = _run("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader")
    return text.splitlines()[0] if text else None


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class ClockWatch:
    """Samples clocks, power and temperature once a second while the run goes on."""

    def __init__(self, device: torch.device) -> None:
        self._process = self._file = None
        if device.type == "cuda" and shutil.which("nvidia-smi"):
            self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop
            uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
            gpu = f"GPU-{str(uuid).removeprefix('GPU-')}" if uuid else str(device.index or 0)
            fields = f"--query-gpu={','.join(_QUERY)}"
            self._process = subprocess.Popen(
                ["nvidia-smi", "-i", gpu, fields, "--format=csv,noheader,nounits", "-lms", "1000"],
                stdout=self._file,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C"},
            )

    def stop(self) -> dict[str, list[float]]:
        """name -> [least, median, most] seen."""
        if self._process is None:
            return {}
        self._process.terminate()
        self._process.wait(10)
        self._file.seek(0)
        columns: dict[str, list[float]] = {name: [] for name in _QUERY}
        for line in self._file:
            values = line.split(",")
            if len(values) == len(_QUERY):
                for name, value in zip(_QUERY, values, strict=True):
                    if value.strip().replace(".", "", 1).isdigit():
                        columns[name].append(float(value))
        self._file.close()
        return {n: [min(v), statistics.median(v), max(v)] for n, v in columns.items() if v}
