"""Errors in the words of the function that was called.

The operators speak of their own arguments; a public function built on one may have
another name for itself and for an argument. Used as a decorator by ``_functional``,
``_grouped_mm`` and ``ops``; costs nothing while nothing is wrong.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def speaks_for_itself(**names: str) -> Callable[[Function], Function]:
    """Renames the operator to the function, and arguments as ``names`` say (theirs=ours)."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (AttributeError, TypeError) as error:
                raise _no_tensor(function, args, kwargs) or error from None
            except RuntimeError as error:
                raise _in_own_words(function, names, error) from None

        return call

    return decorate


def _no_tensor(function: Callable, args: tuple, kwargs: dict) -> TypeError | None:
    """What to say where an argument that must be a tensor is something else."""
    signature = inspect.signature(function)
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        annotation = signature.parameters[name].annotation
        if "torch.Tensor" not in annotation or isinstance(value, torch.Tensor):
            continue
        if type(value).__name__ in annotation:
            continue  # what it may be instead
        if value is not None or "None" not in annotation:
            return TypeError(
                f"{function.__name__}: {name} got {type(value).__name__}; needs a tensor"
            )
    return None


def _in_own_words(function: Callable, names: dict[str, str], error: RuntimeError) -> RuntimeError:
    text = str(error)
    if type(error) is not RuntimeError or not re.match(r"\w+: \w+", text):
        return error  # PyTorch's own, out of memory among them
    text = re.sub(r"^\w+: ", f"{function.__name__}: ", text)
    for theirs, ours in names.items():
        text = re.sub(rf"\b{theirs}(?= got\b|'s\b)", ours, text)
    return RuntimeError(text)
