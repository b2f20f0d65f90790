"""Compiles every public header alone, twice included, with warnings as errors."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

INCLUDE = pathlib.Path(__file__).resolve().parent.parent / "include"


def main() -> None:
    headers = sorted(path.relative_to(INCLUDE).as_posix() for path in INCLUDE.rglob("*.h"))
    failed = []
    for header in headers:
        command = [os.environ.get("CXX", "g++"), "-std=c++20", "-fsyntax-only"]
        command += ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
        command += ["-I", str(INCLUDE), "-x", "c++", "-"]
        source = f'#include "{header}"\n#include "{header}"\nint main() {{}}\n'
        if subprocess.run(command, input=source, text=True).returncode:
            failed.append(header)
    print(f"headers: {len(headers) - len(failed)} of {len(headers)} compile alone")
    if failed or not headers:
        sys.exit(f"these do not: {', '.join(failed) or 'no headers found'}")


if __name__ == "__main__":
    main()
