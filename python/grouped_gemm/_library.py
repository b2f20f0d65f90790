"""Loads the native libraries and says in words what is wrong where that fails.

Called once by ``__init__``. The CPU library holds every operator's schema; the
CUDA library is loaded on top where this PyTorch is a CUDA build. Libraries are
looked for in ``$GG_LIBRARY_DIR``, then beside this file in ``lib/``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pathlib
import sys
import warnings
from dataclasses import dataclass

import torch

CPU_LIBRARY = "libgrouped_gemm_torch_cpu.so"
CUDA_LIBRARY = "libgrouped_gemm_torch_cuda.so"

OPERATORS = (
    "_gmm",
    "_gmm_out",
    "_gmm_wgrad",
    "_gmm_wgrad_out",
    "_permute",
    "_moe_permute",
    "_permute_by_map",
    "_permute_probs_bwd",
    "_unpermute",
    "_unpermute_bwd",
    "_routing_map_to_indices",
    "_sort_chunks",
    "_sinkhorn",
    "_route",
    "_route_bwd",
)


def library_path(name: str) -> pathlib.Path | None:
    """The first existing file of that name, or None."""
    folders = [pathlib.Path(__file__).parent / "lib"]
    if os.environ.get("GG_LIBRARY_DIR"):
        folders.insert(0, pathlib.Path(os.environ["GG_LIBRARY_DIR"]))
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    return None


@dataclass(frozen=True)
class LibraryInfo:
    """What a library says of itself; ``driver`` and ``num_devices`` of this machine."""

    path: str
    version: str
    torch: str
    compiler: str
    architectures: str
    toolkit: str
    driver: int
    num_devices: int


def open_library(path: pathlib.Path) -> ctypes.CDLL:
    """For its C functions. A CUDA library that this PyTorch cannot use registers its operators all
    the same: the refusals in their place make room, or PyTorch would warn of an override."""
    unused = path.name == CUDA_LIBRARY and torch.version.cuda is None
    if unused and _refusals:
        _refusals.clear()
        library = ctypes.CDLL(str(path))
        register_refusals()
        return library
    return ctypes.CDLL(str(path))


def library_info(path: pathlib.Path) -> LibraryInfo:
    """Asks a library about itself."""
    library = open_library(path)

    def text(name: str) -> str:
        function = getattr(library, f"grouped_gemm_{name}")
        function.restype = ctypes.c_char_p
        return function().decode()

    return LibraryInfo(
        path=str(path),
        version=text("version"),
        torch=text("built_torch"),
        compiler=text("built_compiler"),
        architectures=text("built_architectures"),
        toolkit=text("built_toolkit"),
        driver=library.grouped_gemm_driver_version(),
        num_devices=library.grouped_gemm_num_devices(),
    )


def cuda_version_text(number: int) -> str:
    """13000 -> '13.0', as the CUDA driver counts."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _load(path: pathlib.Path) -> None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(
            f"grouped_gemm: {path.name} cannot be loaded into torch {torch.__version__}; it needs "
            f"torch >= 2.10 on Linux x86_64 (the loader says: {error}); reinstall grouped_gemm or "
            "build it from source with `pip install --no-build-isolation .`"
        ) from error


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def load_libraries() -> None:
    """Loads what this PyTorch can use; ImportError names built-for and found versions."""
    if _torch_version() < (2, 10):
        raise ImportError(
            f"grouped_gemm: got torch {torch.__version__}; needs torch >= 2.10, whose stable "
            "interface the operators are built for; upgrade torch"
        )
    cpu = library_path(CPU_LIBRARY)
    if cpu is None:
        raise ImportError(
            f"grouped_gemm: {CPU_LIBRARY} is missing beside {pathlib.Path(__file__).parent.name}; "
            "the package was not built; install it with `pip install --no-build-isolation .`, or "
            "point GG_LIBRARY_DIR at a build folder"
        )
    _load(cpu)
    missing = [name for name in OPERATORS if not hasattr(torch.ops.grouped_gemm, name)]
    if missing:
        raise ImportError(
            f"grouped_gemm: the library built for torch {library_info(cpu).torch} registered no "
            f"{', '.join(missing)} in torch {torch.__version__}; rebuild grouped_gemm"
        )
    if torch.version.cuda is not None:
        _load_cuda()


def _load_cuda() -> None:
    cuda = library_path(CUDA_LIBRARY)
    if cuda is None:
        return  # a CPU-only build; a CUDA tensor gets why_no_cuda()
    _load(cuda)
    info = library_info(cuda)
    if not torch._C._dispatch_has_kernel_for_dispatch_key("grouped_gemm::_gmm", "CUDA"):
        raise ImportError(
            f"grouped_gemm: {cuda.name}, built for torch {info.torch}, registered nothing in torch "
            f"{torch.__version__}; rebuild grouped_gemm"
        )
    built = int(float(info.toolkit) * 1000)
    if info.driver and built // 1000 > info.driver // 1000:
        warnings.warn(
            f"grouped_gemm: the driver supports CUDA {cuda_version_text(info.driver)}; the CUDA "
            f"operators were built with CUDA {info.toolkit} and need a driver for CUDA "
            f"{built // 1000}.0 or newer; update the driver, or build grouped_gemm from source "
            "with your toolkit. CPU operators work.",
            stacklevel=4,
        )


def _refusal(key: str) -> str:
    """What a tensor of a device that this installation cannot serve gets to read."""
    if key != "CUDA":
        return f"got a tensor of device type {key.lower()}; needs the CPU or CUDA; move it"
    if torch.version.hip is not None:
        return f"got a ROCm device (HIP {torch.version.hip}); needs an NVIDIA GPU, or the CPU"
    return (
        f"got a CUDA tensor (torch {torch.__version__}); needs CUDA operators, and this build has "
        "the CPU part only; rebuild where nvcc is found, with "
        "`GG_CUDA=ON pip install --no-build-isolation .`"
    )


_refusals: list[torch.library.Library] = []  # registrations live as long as this


def register_refusals() -> None:
    """Gives devices without kernels an operator that says so, instead of a dispatcher's dump."""
    keys = ["MPS", "XPU", "PrivateUse1"]
    if not torch._C._dispatch_has_kernel_for_dispatch_key("grouped_gemm::_gmm", "CUDA"):
        keys.append("CUDA")
    library = torch.library.Library("grouped_gemm", "IMPL")
    for key in keys:
        for name in OPERATORS:
            library.impl(name, _refuse(name, key), key)
    _refusals.append(library)


def _refuse(name: str, key: str):
    def refuse(*args, **kwargs):
        raise RuntimeError(f"{name.lstrip('_')}: {_refusal(key)}")

    return refuse


def version() -> str:
    """The libraries' version, which is the package's."""
    return library_info(library_path(CPU_LIBRARY)).version


def foreign_backend() -> str | None:
    """The file of a `grouped_gemm_backend` that is not ours, or None."""
    try:
        spec = importlib.util.find_spec("grouped_gemm_backend")
    except ValueError:  # somebody made the module by hand: it has no spec
        module = sys.modules["grouped_gemm_backend"]
        return getattr(module, "__file__", None) or repr(module)
    if spec is None or spec.origin is None:
        return None
    ours = (
        pathlib.Path(__file__).parent.parent / "grouped_gemm_backend.py",
        pathlib.Path(__file__).parent / "grouped_gemm_backend.py",
    )
    found = pathlib.Path(spec.origin)
    return (
        None
        if any(found == path or found.resolve() == path.resolve() for path in ours)
        else str(found)
    )


def warn_of_foreign_backend() -> None:
    """Two packages of the old name install side by side and overwrite each other: say so."""
    found = foreign_backend()
    if found is not None:
        warnings.warn(
            f"grouped_gemm: `import grouped_gemm_backend` would load {found}, which belongs to "
            "another package (nv-grouped-gemm or an older grouped_gemm); grouped_gemm.ops and "
            "grouped_gemm.backend do not use it; remove it with "
            "`pip uninstall nv-grouped-gemm grouped_gemm` and reinstall grouped_gemm",
            stacklevel=3,
        )
