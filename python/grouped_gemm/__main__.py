"""``python -m grouped_gemm info`` and ``... bench``.

info: what is installed, built and found here; what a bug report should carry, and where to look
first when something is missing. bench: the benchmarks, in ``bench/cli.py``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys

import torch

from . import _library
from .bench import paths

_PACKAGES = ("grouped_gemm", "nv-grouped-gemm")


def _library_lines(name: str) -> list[str]:
    path = _library.library_path(name)
    if path is None:
        return [f"  {name}: not built"]
    info = _library.library_info(path)
    lines = [f"  {name}: version {info.version}, built with torch {info.torch}, {info.compiler}"]
    if info.architectures:
        lines.append(f"    CUDA architectures {info.architectures}, CUDA toolkit {info.toolkit}")
    else:
        lines.append("    CUDA architectures: none, the CPU part only")
    return lines


def _driver() -> str:
    path = _library.library_path(_library.CUDA_LIBRARY)
    if path is None:
        return "not asked (no CUDA operators built)"
    version = _library.library_info(path).driver
    return f"supports CUDA {_library.cuda_version_text(version)}" if version else "none found"


def _device_lines() -> list[str]:
    if not torch.cuda.is_available():
        return ["  cpu"]
    lines = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        lines.append(f"  cuda:{index}: {name}, compute capability {major}.{minor}")
    return ["  cpu", *lines]


def _package_lines() -> list[str]:
    lines = []
    for name in _PACKAGES:
        for distribution in importlib.metadata.distributions(name=name):
            folder = distribution.locate_file("")
            lines.append(f"  {name} {distribution.version} in {folder}")
    foreign = _library.foreign_backend()
    if foreign is not None:
        lines.append(f"  in the way: grouped_gemm_backend is {foreign}, which is not ours")
    if any("nv-grouped-gemm" in line for line in lines):
        lines.append("  in the way: nv-grouped-gemm installs the same modules; uninstall it")
    return lines or ["  none installed (used from a folder)"]


def info() -> str:
    """Versions, architectures built, devices, driver, and foreign packages in the way."""
    lines = [
        f"grouped_gemm {_library.version()}",
        f"torch {torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        f"Python {platform.python_version()} on {platform.platform()}",
        "libraries:",
        *_library_lines(_library.CPU_LIBRARY),
        *_library_lines(_library.CUDA_LIBRARY),
        f"driver: {_driver()}",
        "devices:",
        *_device_lines(),
        "packages:",
        *_package_lines(),
    ]
    return "\n".join(lines)


def _add_questions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--gmm", metavar="T,K,N,E,DTYPE", help="plans of a grouped GEMM of this shape, and why")
    add("--permute", metavar="T,topK,h,E,DTYPE", help="plans of a permutation of this shape")
    add("--layout", choices=("nk", "kn"), default="nk", help="weights [E,N,K] or [E,K,N]")
    add("--out", choices=sorted(paths.NAMES), help="--gmm: the results' dtype, if another")
    add("--accumulate", action="store_true", help="--gmm: wgrad adds to what is there")
    add(
        "--device",
        action="append",
        metavar="NAME",
        help="cpu, cuda:0, or one that is not here: sm90, or sm90,SMS,SHARED_BYTES; repeatable",
    )


def _path_lines(options: argparse.Namespace) -> list[str]:
    problems = []
    if options.gmm:
        gemm = (options.gmm, options.layout, options.out, options.accumulate)
        problems += paths.gmm_problems(*gemm)
    if options.permute:
        problems += paths.move_problems(options.permute)
    return paths.path_lines(problems, [paths.Where.named(name) for name in options.device or ()])


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["bench"]:  # has a parser of its own
        from .bench.cli import main as bench

        return bench(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m grouped_gemm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    info_parser = commands.add_parser("info", help="versions, builds, devices, paths and why")
    _add_questions(info_parser)
    commands.add_parser("bench", help="measure; `bench --help` says how")
    options = parser.parse_args(arguments)
    try:
        lines = _path_lines(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(info())
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
