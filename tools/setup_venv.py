"""Makes .venv, with a torch and the tools that build the package. Run by the Makefile.

.venv sees the torch of the Python that runs this script if that is new enough.
Otherwise it gets the pinned CPU wheel: plain `pip install torch` would fetch
gigabytes of CUDA. Standard library only.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

MIN_PYTHON = (3, 10)
MIN_TORCH = (2, 10)
MIN_CMAKE = (3, 26)
MIN_PIP = (23, 1)  # the first with -C; Debian 12 and Ubuntu 22.04 bring an older one


def release(version: str) -> tuple[int, int]:
    """The first two numbers of a version text, (0, 0) without any."""
    match = re.search(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_python() -> None:
    if sys.version_info < MIN_PYTHON:
        sys.exit(
            f"Python {sys.version.split()[0]} at {sys.executable} is too old; needs "
            f"{MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer. Another one: make PYTHON=/path/to/python3"
        )
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        sys.exit(
            "This Python cannot make a virtual environment. On Debian and Ubuntu: "
            "apt-get install python3-venv"
        )


def active_torch() -> tuple[str, list[str]] | None:
    """Version of the torch that this Python imports and the folders it needs."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    package = pathlib.Path(spec.origin).parent
    try:
        version = runpy.run_path(str(package / "version.py"))["__version__"]
    except (OSError, KeyError):
        return None
    # Its dependencies may lie in another folder than torch itself (user site, Debian).
    here = str(pathlib.Path(__file__).parent.resolve())
    libraries = (str(pathlib.Path(path).resolve()) for path in sys.path if path)
    folders = [str(package.parent)] + [
        path for path in libraries if re.search("(site|dist)-packages", path) and path != here
    ]
    return version, list(dict.fromkeys(folders))


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def make_venv(venv: pathlib.Path) -> pathlib.Path:
    python = venv / "bin" / "python"
    # A .venv whose Python was upgraded away no longer runs.
    if python.exists() and subprocess.run([python, "-c", "import pip"]).returncode == 0:
        return python
    print(f"Making {venv} with Python {sys.version.split()[0]}", flush=True)
    run(sys.executable, "-m", "venv", "--clear", venv)
    if pip_version(python) < MIN_PIP:
        run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade", "pip")
    return python


def pip_version(python: pathlib.Path) -> tuple[int, int]:
    found = subprocess.run(
        [python, "-c", "import pip; print(pip.__version__)"], capture_output=True, text=True
    )
    return release(found.stdout)


def venv_torch(python: pathlib.Path) -> tuple[int, int]:
    found = subprocess.run(
        [python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True
    )
    return release(found.stdout) if found.returncode == 0 else (0, 0)


def give_torch(venv: pathlib.Path, python: pathlib.Path, pin: str, index: str) -> None:
    link = next(venv.glob("lib/python*/site-packages")) / "active_torch.pth"
    link.unlink(missing_ok=True)
    if venv_torch(python) >= MIN_TORCH:
        return  # from an earlier run
    active = active_torch()
    if active and release(active[0]) >= MIN_TORCH:
        version, folders = active
        print(f"Using torch {version} of {sys.executable}", flush=True)
        link.write_text("".join(f"import site; site.addsitedir({f!r})\n" for f in folders))
        if venv_torch(python) >= MIN_TORCH:
            return
        print("It cannot be imported from .venv; installing one there instead", flush=True)
        link.unlink()
    elif active:
        print(f"torch {active[0]} of {sys.executable} is too old; .venv gets its own", flush=True)
    print(f"Installing torch {pin} (CPU only)", flush=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    quick = ["--retries", 2, "--timeout", 30]
    try:
        # The wheel from torch's index, what it depends on from the usual one.
        run(*pip, *quick, "--no-deps", "--extra-index-url", index, f"torch=={pin}")
        run(*pip, f"torch=={pin}")
    except subprocess.CalledProcessError:
        sys.exit(
            f"pip could not install torch=={pin} from {index}. Install any torch >= 2.10 into "
            f"{sys.executable} yourself and run make again, or name another index: "
            "make TORCH_INDEX=https://..."
        )
    if shutil.which("nvidia-smi"):
        print(
            "NOTE: this machine may have a GPU, but this torch is CPU only. For the GPU, install "
            "a CUDA build of torch into your Python, remove .venv and run make again."
        )


def tool_version(tool: str) -> tuple[int, int]:
    if shutil.which(tool) is None:
        return (0, 0)
    found = subprocess.run([tool, "--version"], capture_output=True, text=True)
    return release(found.stdout) if found.returncode == 0 else (0, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=pathlib.Path, required=True)
    parser.add_argument("--torch-pin", required=True)
    parser.add_argument("--torch-index", required=True)
    args = parser.parse_args()

    check_python()
    os.environ.pop("PYTHONHOME", None)
    python = make_venv(args.venv)
    give_torch(args.venv, python, args.torch_pin, args.torch_index)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run(*pip, "scikit-build-core>=0.11")
    programs = []
    if tool_version("cmake") < MIN_CMAKE:
        programs.append(f"cmake>={MIN_CMAKE[0]}.{MIN_CMAKE[1]}")
    if tool_version("ninja") == (0, 0):
        programs.append("ninja")
    if programs:
        # Even if the shared Python has the wheels: their programs belong in .venv/bin.
        run(*pip, "--ignore-installed", *programs)


if __name__ == "__main__":
    main()
