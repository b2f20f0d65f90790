"""Checks that the built torch libraries load wherever the README says they do.

    python tools/check_symbols.py build/dev/libgrouped_gemm_torch_*.so
    python tools/check_symbols.py --write-list TORCH_2_10_INCLUDE_DIR

- Every symbol wanted from torch is one of the stable C ABI of torch 2.10
  (stable_abi_2_10.txt, made from that release's headers by --write-list).
- No library is needed but torch's stable ones and the C and C++ runtimes; above all
  not libcuda, libcudart or cuBLAS.
- No newer glibc or libstdc++ than manylinux_2_34 has.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

LIST = pathlib.Path(__file__).with_name("stable_abi_2_10.txt")
HEADERS = ["torch/csrc/stable/c/shim.h", "torch/csrc/inductor/aoti_torch/c/shim.h"]
NEEDED = re.compile(
    r"libtorch\.so|libtorch_cpu\.so|libstdc\+\+\.so\.6|libgcc_s\.so\.1|libm\.so\.6|libc\.so\.6"
    r"|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux-[\w-]+\.so\.\d"
)
NEWEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (7, 0, 0)}
# Weak names that the compiler adds to every shared library.
OF_THE_COMPILER = {
    "__gmon_start__",
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__cxa_finalize",
}


def write_list(include_dir: pathlib.Path) -> None:
    text = "".join((include_dir / header).read_text() for header in HEADERS)
    text = re.sub(r"//[^\n]*", "", text)
    names = re.findall(r"AOTI_TORCH_EXPORT\b[^;{]*?\b(\w+)\s*\(", text)
    LIST.write_text("".join(f"{name}\n" for name in sorted(set(names))))


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def problems(library: str, allowed: set[str]) -> list[str]:
    found = []
    newest: dict[str, tuple[int, ...]] = {}
    num_torch = 0
    for line in output_of("nm", "-D", "--undefined-only", library).splitlines():
        name, _, version = line.split()[-1].partition("@")
        if version:
            space, _, number = version.lstrip("@").partition("_")
            if number[:1].isdigit():
                parts = tuple(int(part) for part in number.split("."))
                newest[space] = max(newest.get(space, ()), parts)
        elif name in allowed:
            num_torch += 1
        elif name not in OF_THE_COMPILER:
            found.append(f"{name} is not in the stable ABI of torch 2.10")
    for space, parts in newest.items():
        if parts > NEWEST.get(space, (0,)):
            found.append(f"needs {space}_{'.'.join(map(str, parts))}")
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output_of("readelf", "-dW", library))
    found += [f"needs the library {name}" for name in needed if not NEEDED.fullmatch(name)]
    found += [
        f"has the search path {path}"
        for path in re.findall(
            r"\((?:RPATH|RUNPATH)\).*\[(.+)\]", output_of("readelf", "-dW", library)
        )
    ]
    if not num_torch:
        found.append("wants nothing from torch: is it one of ours?")
    versions = ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in sorted(newest.items()))
    print(f"{pathlib.Path(library).name}: {num_torch} symbols of torch; {versions}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-list", type=pathlib.Path, metavar="TORCH_2_10_INCLUDE_DIR")
    parser.add_argument("libraries", nargs="*")
    args = parser.parse_args()
    if args.write_list:
        write_list(args.write_list)
        return
    if not args.libraries:
        parser.error("no libraries given: were they built?")
    for tool in ("nm", "readelf"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing; it belongs to binutils, as the linker does")
    allowed = set(LIST.read_text().split())
    failed = False
    for library in args.libraries:
        for problem in problems(library, allowed):
            failed = True
            print(f"  ERROR: {problem}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
