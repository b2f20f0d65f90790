"""Runs the C++ and the Python suite, once or under several forced paths side by side.

    python tools/run_paths.py --build build/ptx --report REPORT [--paths sm70,sm75] [-- PYTEST_ARGS]

Several paths share the machine's GPUs, each beginning with another one; what a path printed lies in
BUILD/gpu-test-PATH.log. Side by side because most of C++'s time goes into the driver's compiler, a
core a process (run_shards.py).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def num_gpus() -> int:
    query = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", query], capture_output=True, text=True)
    return int(answer.stdout or 0)


def environment(build: pathlib.Path, path: str = "auto") -> dict[str, str]:
    settings = {"GG_LIBRARY_DIR": str(build), "PYTHONPATH": "python", "GG_FORCE_PATH": path}
    return {**os.environ, **settings}


def gpus_from(turn: int, num_gpus: int) -> dict[str, str]:
    """All GPUs, another one first."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(num_gpus)))).split(",")
    turn %= len(gpus)
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[turn:] + gpus[:turn])}


def suites(build: pathlib.Path, report: str, pytest_args: list[str]) -> dict[str, list[str]]:
    programs = [str(build / name) for name in ("gg_tests", "gg_cuda_tests")]
    built = [program for program in programs if os.path.exists(program)]
    pytest = [sys.executable, "-m", "pytest", "tests/python", "-q", "--gpu-report", report]
    python = {"Python": [*pytest, *pytest_args]}
    if not built:
        print(f"no C++ tests: {build} has neither gg_tests nor gg_cuda_tests", flush=True)
        return python
    return {"C++": [sys.executable, "tools/run_shards.py", *built], **python}


class Run:
    """The suites under one path, one after the other, in the background."""

    def __init__(self, path: str, log: pathlib.Path, settings: dict[str, str], suites):
        self.path, self.log, self.settings = path, log, settings
        self.waiting = list(suites.items())
        self.failed: list[str] = []
        self.process = None
        log.write_text("")
        self.advance()

    def advance(self) -> bool:
        """Starts what is next once nothing runs; whether there is anything left."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return True
            took = time.monotonic() - self.began
            verdict = "FAILED" if code else "passed"
            print(f"{self.path}: {self.name} {verdict}, {took:.0f} s; {self.log}", flush=True)
            if code:
                self.failed.append(self.name)
            self.process = None
        if not self.waiting:
            return False
        self.name, command = self.waiting.pop(0)
        self.began = time.monotonic()
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, env=self.settings, stdout=log, stderr=subprocess.STDOUT
            )
        return True


def run_side_by_side(paths: list[str], build: pathlib.Path, commands) -> list[str]:
    """The paths that failed; what their logs end with is shown."""
    gpus = num_gpus()
    runs = [
        Run(
            path,
            build / f"gpu-test-{path}.log",
            {**environment(build, path), **gpus_from(turn, gpus)},
            commands,
        )
        for turn, path in enumerate(paths)
    ]
    print(f"{len(runs)} paths on {gpus} GPUs: {', '.join(paths)}", flush=True)
    while sum(run.advance() for run in runs) > 0:  # all of them, each time
        time.sleep(0.5)
    for run in runs:
        lines = run.log.read_text(errors="replace").splitlines()
        print(
            f"=== {run.path}, the end of {run.log}", *lines[-(60 if run.failed else 6) :], sep="\n"
        )
    return [run.path for run in runs if run.failed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True, help="folder of libraries")
    parser.add_argument("--report", required=True, help="where the Python suite writes its report")
    parser.add_argument("--paths", default="", help="separated by commas; none: as devices choose")
    parser.add_argument("pytest_args", nargs="*", metavar="PYTEST_ARGS")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    commands = suites(build, arguments.report, arguments.pytest_args)
    paths = [path for path in arguments.paths.split(",") if path]
    if len(paths) > 1:
        failed = run_side_by_side(paths, build, commands)
        print(f"failed under: {' '.join(failed)}" if failed else "all paths passed")
        return 1 if failed else 0
    settings = environment(build, *paths)
    codes = [
        subprocess.call(command, cwd=REPOSITORY, env=settings) for command in commands.values()
    ]
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
