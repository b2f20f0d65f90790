"""How many multiprocessors the grouped GEMM's persistent kernels take."""

from __future__ import annotations

import ctypes
import functools

from . import _library


@functools.cache
def _libraries() -> list[ctypes.CDLL]:
    paths = map(_library.library_path, (_library.CPU_LIBRARY, _library.CUDA_LIBRARY))
    return [_library.open_library(path) for path in paths if path is not None]


def set_num_sms(num_sms: int | None) -> None:
    """Lets grouped GEMM take at most so many multiprocessors (SMs) of a GPU, from the next call on.

    The rest stay free for what runs beside it, communication above all. For the whole process; a
    captured CUDA graph keeps the number it was captured with. Results do not depend on it. Only
    kernels that stay on their multiprocessor obey it (paths sm80, sm90); others come and go in
    small blocks.

    Args:
        num_sms: 1 or more; None: all the device has, as at the start.

    Raises:
        ValueError: less than 1.
    """
    if num_sms is not None and num_sms < 1:
        raise ValueError(
            f"set_num_sms: num_sms got {num_sms}; needs 1 or more, or None for all of the device's"
        )
    for library in _libraries():
        library.grouped_gemm_set_num_sms(num_sms or 0)


def get_num_sms() -> int | None:
    """What :func:`set_num_sms` was given last; None at the start."""
    return _libraries()[0].grouped_gemm_num_sms() or None
