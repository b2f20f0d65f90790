"""Brings a CUDA 12.4 compiler to a Debian machine without installing it, for architecture 7.0.

    python tools/get_cuda12.py [--into FOLDER]      prints the path of its nvcc

nvcc 13 knows no Volta. Debian's archive has nvcc 12.4 (in a release newer than 12, fetched here
with apt lists of our own, so that the machine's stay as they are) and PyPI the headers; both are
unpacked into a cache folder, a few hundred MB, and found there the next time. What is built with it
can be compiled, linked and asked for plans; the runtime it links is the shared one, of the cache.
Exit status 3: this machine or its network does not have the packages; the reason is on stderr.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

SUITE = "trixie"
PACKAGES = ("nvidia-cuda-toolkit", "libnvvm4")
TOOLKIT = "12.4.131"
# 12.4's own cccl wheel is a broken release.
WHEELS = (
    "nvidia-cuda-runtime-cu12==12.4.127",
    "nvidia-cuda-nvcc-cu12==12.4.131",
    "nvidia-cuda-cccl-cu12==12.6.77",
)
# As in NVIDIA's own layout; Debian's profile names folders of the system.
PROFILE = """\
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
LD_LIBRARY_PATH += $(TOP)/nvvm/lib64:
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64"
"""
TRIAL = "#include <cuda_fp16.h>\n#include <mma.h>\n__global__ void f(float* x) { *x = 1; }\n"


class Unavailable(Exception):
    """The packages are not to be had here: a reason to skip, not a failure."""


def run(*command: str, cwd: pathlib.Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise Unavailable(f"{' '.join(command[:2])} failed: {' / '.join(last)}")
    return done.stdout


def debian_mirror() -> str:
    """The archive that this machine's apt is set up to use."""
    if platform.machine() != "x86_64" or not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Unavailable("needs apt-get and dpkg on x86_64")
    for uri in run("apt-get", "indextargets", "--format", "$(REPO_URI)").split():
        if re.search(r"/debian/?$", uri):
            return uri
    raise Unavailable("apt has no Debian archive among its sources")


def download_packages(scratch: pathlib.Path) -> list[pathlib.Path]:
    """The compiler's Debian packages, checked by apt against the archive's signature."""
    keyring = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    (scratch / "lists" / "partial").mkdir(parents=True)
    (scratch / "sources.list").write_text(
        f"deb {signed}{debian_mirror()} {SUITE} contrib non-free\n"
    )
    options = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Retries": 2,
        "APT::Update::Error-Mode": "any",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    run(*apt, "update")
    run(*apt, "download", *PACKAGES, cwd=scratch)
    return sorted(scratch.glob("*.deb"))


def download_wheels(scratch: pathlib.Path) -> list[pathlib.Path]:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "download", "-q", "--no-deps", "-d", str(scratch / "wheels"), *WHEELS)
    return sorted((scratch / "wheels").glob("*.whl"))


def assemble(scratch: pathlib.Path, top: pathlib.Path, final: pathlib.Path) -> None:
    """Unpacks everything and lays it out under `top` as NVIDIA's toolkit is laid out."""
    root, site = scratch / "root", scratch / "site"
    for package in download_packages(scratch):
        run("dpkg", "-x", str(package), str(root))
    for wheel in download_wheels(scratch):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    debian = root / "usr/lib/nvidia-cuda-toolkit"
    shutil.copytree(root / "usr/bin", top / "bin", symlinks=False)
    shutil.copy2(debian / "bin/nvcc", top / "bin/nvcc")  # the other one is a script with paths
    shutil.copytree(debian / "bin/crt", top / "bin/crt")
    shutil.copytree(debian / "libdevice", top / "nvvm/libdevice")
    for folder in ("nvvm/bin", "nvvm/lib64", "lib64"):
        (top / folder).mkdir()
    shutil.copy2(debian / "bin/cicc", top / "nvvm/bin/cicc")
    shutil.copy2(next(root.glob("usr/lib/*/libnvvm.so.4.*")), top / "nvvm/lib64/libnvvm.so.4")
    for part in ("cuda_runtime", "cuda_nvcc", "cuda_cccl"):
        shutil.copytree(site / "nvidia" / part / "include", top / "include", dirs_exist_ok=True)
    (top / "bin/nvcc.profile").write_text(PROFILE)
    shutil.copy2(site / "nvidia/cuda_runtime/lib/libcudart.so.12", top / "lib64/libcudart.so.12")
    (top / "lib64/libcudart.so").symlink_to("libcudart.so.12")
    # The static runtime is in a package of 0.9 GB: a linker script stands in for it.
    (top / "lib64/libcudart_static.a").write_text(f"INPUT({final}/lib64/libcudart.so.12)\n")
    run("ar", "rcs", str(top / "lib64/libcudadevrt.a"))


def compiles(top: pathlib.Path, scratch: pathlib.Path) -> None:
    source = scratch / "trial.cu"
    source.write_text(TRIAL)
    command = [top / "bin/nvcc", "-ccbin", "g++", "-std=c++20", "-arch=sm_70", "-c", source]
    subprocess.run([*command, "-o", scratch / "trial.o"], check=True, stdout=sys.stderr)


def main() -> int:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=pathlib.Path, default=cache / f"grouped_gemm/cuda-{TOOLKIT}")
    final = parser.parse_args().into.resolve()
    if not (final / "bin/nvcc").exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent) as folder:
            scratch = pathlib.Path(folder)
            try:
                assemble(scratch, scratch / "toolkit", final)
            except Unavailable as reason:
                print(f"no CUDA {TOOLKIT} compiler to be had: {reason}", file=sys.stderr)
                return 3
            compiles(scratch / "toolkit", scratch)
            (scratch / "toolkit").rename(final)
    print(final / "bin/nvcc")
    return 0


if __name__ == "__main__":
    sys.exit(main())
