"""Checks a wheel: its tag, what it must hold, and that no folder of the builder shows.

python tools/check_wheel.py WHEEL...
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MUST_HOLD = [
    "grouped_gemm/__init__.py",
    "grouped_gemm/py.typed",
    "grouped_gemm/lib/libgrouped_gemm_torch_cpu.so",
    "grouped_gemm_backend.py",
    "/LICENSE",
    "/NOTICE",
]


def builders_folders() -> list[bytes]:
    folders = {str(ROOT), str(pathlib.Path.home()), sys.prefix, sys.base_prefix}
    torch = importlib.util.find_spec("torch")
    if torch and torch.origin:
        folders.add(str(pathlib.Path(torch.origin).resolve().parent))
    folders.add(str(pathlib.Path(tempfile.gettempdir()) / "pip-"))
    # "/", "/root" and "/usr" as such say nothing about a machine.
    return sorted(
        f.encode() + (b"" if f.endswith("pip-") else b"/")
        for f in folders
        if len(pathlib.PurePath(f).parts) > 2
    )


def problems(wheel: pathlib.Path) -> list[str]:
    found = []
    if not wheel.name.endswith("-py3-none-linux_x86_64.whl"):
        found.append("the tag is not py3-none-linux_x86_64")
    folders = builders_folders()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        found += [
            f"{want} is missing"
            for want in MUST_HOLD
            if not any(name.endswith(want) for name in names)
        ]
        for name in names:
            content = archive.read(name)
            found += [f"{name} shows {f.decode()}" for f in folders if f in content]
    megabytes = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {len(names)} files, {megabytes:.1f} MB, {len(found)} problems")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", nargs="+", type=pathlib.Path)
    found = [problem for wheel in parser.parse_args().wheels for problem in problems(wheel)]
    print("".join(f"  ERROR: {problem}\n" for problem in found), end="")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
