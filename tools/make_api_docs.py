"""Writes docs/api.md from docstrings and public headers: `make docs`, or `--check` in CI.

Usage: python tools/make_api_docs.py [--check]. Python's half comes from the package's own
docstrings and signatures, C++'s half is the public headers as they stand.
"""

import argparse
import inspect
import pathlib
import re
import sys

import grouped_gemm
import grouped_gemm.nn
from grouped_gemm import backend, ops

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
TARGET = REPOSITORY / "docs" / "api.md"

HEAD = """# API

Made by `make docs` from docstrings and headers; do not edit. Letters: T tokens (rows), K reduction,
N output features, E experts (groups), h hidden size, topK experts per token.
"""

SECTIONS = {
    "Grouped GEMM": [
        grouped_gemm.gmm,
        grouped_gemm.gmm_dgrad,
        grouped_gemm.gmm_wgrad,
        grouped_gemm.gmm_main_grad,
        grouped_gemm.grouped_mm,
        grouped_gemm.set_num_sms,
        grouped_gemm.get_num_sms,
    ],
    "Permutation": [
        grouped_gemm.moe_permute,
        grouped_gemm.moe_unpermute,
        grouped_gemm.sort_chunks,
        grouped_gemm.routing_map_to_indices,
    ],
    "Routing": [
        grouped_gemm.moe_route,
        grouped_gemm.router_load_balancing_loss,
        grouped_gemm.router_z_loss,
        grouped_gemm.sinkhorn,
    ],
    "Layers: `grouped_gemm.nn`": [
        getattr(grouped_gemm.nn, name) for name in grouped_gemm.nn.__all__
    ],
    "Drop-in functions: `grouped_gemm.ops`": [ops.permute, ops.unpermute, ops.sinkhorn_kernel],
    "Drop-in functions: `grouped_gemm.backend`": [
        backend.gmm,
        backend.permute,
        backend.unpermute,
        backend.unpermute_bwd,
        backend.sinkhorn,
    ],
}

HEADERS = [
    "types",
    "tensor_view",
    "error",
    "gmm",
    "permute",
    "unpermute",
    "routing_map",
    "route",
    "sort_chunks",
    "sinkhorn",
]


def signature(thing):
    """The call as one would write it, one line if it fits."""
    text = f"{thing.__name__}{inspect.signature(thing)}".replace("'", "")
    text = text.replace("torch.Tensor", "Tensor")
    if len(text) <= 100 or "(" not in text:
        return text
    name, rest = text.split("(", 1)
    arguments, result = rest.rsplit(")", 1)
    parts = re.split(r", (?![^\[]*\])", arguments)
    return name + "(\n" + "".join(f"    {part},\n" for part in parts) + ")" + result


def python_half():
    for title, things in SECTIONS.items():
        yield f"## {title}\n"
        for thing in things:
            if not callable(thing):
                continue
            yield f"### `{thing.__name__}`\n"
            yield f"```python\n{signature(thing)}\n```\n"
            yield f"```text\n{inspect.getdoc(thing)}\n```\n"


def cpp_half():
    yield "## C++\n"
    yield "Namespace `gg`; include `<grouped_gemm/NAME.h>`.\n"
    for name in HEADERS:
        text = (REPOSITORY / "include" / "grouped_gemm" / f"{name}.h").read_text()
        lines = [
            line
            for line in text.splitlines()
            if not re.match(r"#(pragma|include)|namespace gg \{|\}  // namespace gg", line)
        ]
        body = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
        yield f"### `grouped_gemm/{name}.h`\n"
        yield f"```cpp\n{body}\n```\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if docs/api.md is out of date")
    options = parser.parse_args()
    page = "\n".join([HEAD, *python_half(), *cpp_half()])
    if not options.check:
        TARGET.write_text(page)
        print(f"wrote {TARGET.relative_to(REPOSITORY)}")
    elif TARGET.read_text() != page:
        sys.exit("docs/api.md is out of date: run `make docs` and commit it")


if __name__ == "__main__":
    main()
