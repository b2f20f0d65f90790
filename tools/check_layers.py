"""Checks that no layer includes what it must not (the arrows of ARCHITECTURE.md).

    python tools/check_layers.py [--self-test]

The first rule whose folder holds a file decides what that file may include.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

API = "grouped_gemm/"
BUILD_FACTS = "grouped_gemm_build.h"
BOTH_DOORS = ["cpu/door.h", "cuda/door.h"]
CUDA_COMMON = [API, "base/", BUILD_FACTS, "cuda/door.h", "cuda/common/"]
ROW_MAP = ["cuda/permute/row_map.h", "cuda/permute/row_map_policy.h"]
CUDA_SYSTEM = ["cuda", "cub/", "cooperative_groups", "mma.h"]

# {} stands for one folder, {file} for a file that lies in no further folder.
# (folder, what of ours it may include, what of others besides the standard library)
RULES: list[tuple[str, list[str], list[str]]] = [
    ("include/grouped_gemm/", [API], []),
    ("src/base/", ["grouped_gemm/error.h", "base/"], []),
    ("src/core/", [API, "base/", "core/", *BOTH_DOORS], []),
    ("src/cpu/", [API, "base/", "cpu/"], []),
    # Architecture folders never include each other: each sees itself and common/.
    ("src/cuda/gemm/{}/", [*CUDA_COMMON, "cuda/gemm/{file}", "cuda/gemm/{}/"], CUDA_SYSTEM),
    ("src/cuda/gemm/", [*CUDA_COMMON, "cuda/gemm/{file}", "cuda/gemm/{}/door.h"], CUDA_SYSTEM),
    ("src/cuda/permute/", [*CUDA_COMMON, "cuda/permute/"], CUDA_SYSTEM),
    # Routing launches the row map of what it chose.
    ("src/cuda/routing/", [*CUDA_COMMON, "cuda/routing/", *ROW_MAP], CUDA_SYSTEM),
    ("src/cuda/common/", [*CUDA_COMMON], CUDA_SYSTEM),
    # The files of src/cuda/ itself are the backend's door: it sees every folder's door.
    (
        "src/cuda/",
        [*CUDA_COMMON, "cuda/gemm/{file}", "cuda/gemm/{}/door.h", "cuda/permute/", "cuda/routing/"],
        CUDA_SYSTEM,
    ),
    # The CUDA door tells the binding what `info` prints: drivers and devices.
    ("src/torch/", [API, "base/", "torch/", BUILD_FACTS, "cuda/door.h"], ["torch/"]),
]


def pattern(prefix: str) -> str:
    return re.escape(prefix).replace(r"\{\}", "([^/]+)").replace(r"\{file\}", "[^/]+$")


def is_standard(name: str) -> bool:
    return (
        re.fullmatch(r"[a-z_]+|(assert|errno|float|limits|math|stddef|stdint|string)\.h", name)
        is not None
    )


def rule_for(path: str) -> tuple[re.Match[str], list[str], list[str]] | None:
    for folder, ours, others in RULES:
        if match := re.match(pattern(folder), path):
            return match, ours, others
    return None


def check_file(path: str, text: str) -> list[str]:
    rule = rule_for(path)
    if rule is None:
        return [f"{path}: no rule of check_layers.py covers this folder"]
    match, ours, others = rule
    folder = match.group(1) if match.groups() else None
    found = []
    for bracket, name in INCLUDE.findall(text):
        if bracket == "<":
            good = is_standard(name) or any(name.startswith(prefix) for prefix in others)
        else:
            prefixes = [p.replace("{}", folder) if folder else p for p in ours]
            good = any(re.match(pattern(prefix), name) for prefix in prefixes)
            if name.endswith(".cuh") and not path.startswith("src/cuda/"):
                good = False
        if not good:
            line = text[: text.find(name)].count("\n") + 1
            found.append(f"{path}:{line}: this layer must not include {name}")
    if path.endswith((".cuh", ".cu")) and not path.startswith("src/cuda/"):
        found.append(f"{path}: CUDA files belong in src/cuda/")
    return found


def check_tree(root: pathlib.Path) -> tuple[list[str], int]:
    found, num_files = [], 0
    for top in ("include", "src"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SUFFIXES:
                num_files += 1
                found += check_file(path.relative_to(root).as_posix(), path.read_text())
    return found, num_files


PLANTED = [
    ("src/core/gmm.cc", "#include <torch/csrc/stable/tensor.h>\n"),
    ("src/core/gmm.cc", '#include "cuda/common/vector.cuh"\n'),
    ("src/core/gmm.cc", '#include "cpu/parallel.h"\n'),
    ("src/cpu/gmm.cc", '#include "core/validate.h"\n'),
    ("src/base/check.h", '#include "grouped_gemm/types.h"\n'),
    ("src/cuda/gemm/sm90/launch.cu", '#include "cuda/gemm/sm80/policy.h"\n'),
    ("src/cuda/gemm/groups.cu", '#include "cuda/gemm/sm80/policy.h"\n'),
    ("src/cuda/gmm.cc", '#include "cuda/gemm/sm90/policy.h"\n'),
    ("src/cuda/routing/route.cu", '#include "cuda/permute/place_slots.cuh"\n'),
    ("include/grouped_gemm/gmm.h", '#include "base/check.h"\n'),
    ("include/grouped_gemm/gmm.h", "#include <cuda_runtime.h>\n"),
    ("src/torch/ops.cc", '#  include "core/validate.h"\n'),
    ("src/other/new.cc", "\n"),
]
ALLOWED = [
    ("src/core/gmm.cc", '#include "cuda/door.h"\n#include <vector>\n'),
    ("src/cuda/gemm/sm90/launch.cu", '#include "cuda/gemm/sm90/policy.h"\n#include <cuda.h>\n'),
    ("src/cuda/gemm/sm90/launch.cu", '#include "cuda/gemm/groups.h"\n'),
    ("src/cuda/door.cc", '#include "cuda/gemm/sm90/door.h"\n'),
    ("src/torch/ops.cc", "#include <torch/csrc/stable/tensor.h>\n"),
]


def self_test() -> None:
    """Each planted violation is found, and what is allowed is not reported."""
    for cases, wanted in ((PLANTED, 1), (ALLOWED, 0)):
        for path, text in cases:
            with tempfile.TemporaryDirectory() as folder:
                file = pathlib.Path(folder) / path
                file.parent.mkdir(parents=True)
                file.write_text(text)
                found, _ = check_tree(pathlib.Path(folder))
            if len(found) != wanted:
                sys.exit(f"self-test: {path} with {text!r} gave {found}, wanted {wanted} findings")
    print(f"layers: self-test passed on {len(PLANTED)} planted violations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self-test", action="store_true")
    if parser.parse_args().self_test:
        self_test()
    found, num_files = check_tree(ROOT)
    print("\n".join([*found, f"layers: {len(found)} violations in {num_files} files"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
