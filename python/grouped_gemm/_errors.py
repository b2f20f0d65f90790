"""Errors in the words of the function that was called.

The operators speak of their own arguments; a public function built on one may have another name
for itself and for an argument. What no operator can say, that an argument is of the wrong type,
is told from the function's annotations. Used as a decorator by every public function; costs
nothing while nothing is wrong.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable
from typing import TypeVar

import torch

from ._library import OPERATORS

Function = TypeVar("Function", bound=Callable)

_speakers = {name.lstrip("_") for name in OPERATORS}  # whoever starts a message of ours


def speaks_for_itself(**names: str) -> Callable[[Function], Function]:
    """Renames the operator to the function, and arguments as ``names`` say (theirs=ours)."""

    def decorate(function: Function) -> Function:
        _speakers.add(function.__name__)

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise _in_own_words(function, names, args, kwargs, error) from None

        return call

    return decorate


def _in_own_words(function: Callable, names: dict[str, str], args, kwargs, error) -> Exception:
    if isinstance(error, RuntimeError) and type(error) not in (RuntimeError, NotImplementedError):
        return error  # of memory or of the device
    text = str(error)
    speaker = re.match(r"(\w+): \w+", text)
    if speaker is None or speaker[1] not in _speakers:
        return _bad_argument(function, args, kwargs, error) or error
    text = re.sub(r"^\w+: ", f"{function.__name__}: ", text)
    for theirs, ours in names.items():
        as_argument = rf"\b{theirs}(?= got\b|'s\b| and \w+ got\b)|(?<=check ){theirs}\b"
        text = re.sub(as_argument, ours, text)
    return type(error)(text)


def _bad_argument(function: Callable, args: tuple, kwargs: dict, error) -> Exception | None:
    """What to say where something else than ours failed: which argument it cannot have liked."""
    try:
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        return None  # too few or too many: Python's own words name the function
    for name, value, kinds in _with_parts(arguments, typing.get_type_hints(function)):
        if not _is_one_of(value, kinds):
            return TypeError(
                f"{function.__name__}: {name} got {_name_of(type(value))}; "
                f"needs {' or '.join(map(_name_of, kinds))}"
            )
        if isinstance(error, IndexError) and isinstance(value, torch.Tensor) and value.dim() == 0:
            return ValueError(f"{function.__name__}: {name} got 0 dimensions; needs 1 or more")
    return None


def _with_parts(arguments: dict, hints: dict):
    """Name, value and possible types of each argument, and of what stands in a named tuple."""
    for name, value in arguments.items():
        yield name, value, typing.get_args(hints[name]) or (hints[name],)
        if hasattr(value, "_fields"):
            parts = {f"{name}.{part}": getattr(value, part) for part in value._fields}
            own = typing.get_type_hints(type(value))
            yield from _with_parts(parts, {f"{name}.{part}": own[part] for part in value._fields})


def _is_one_of(value: object, kinds: tuple) -> bool:
    if not all(isinstance(kind, type) for kind in kinds):
        return True  # names to choose from, which the function checks
    if isinstance(value, kinds):
        return True
    is_integer = hasattr(value, "__index__")  # of numpy, of a graph, of a tensor with one element
    return (is_integer and (int in kinds or float in kinds)) or (
        float in kinds and hasattr(value, "__float__")
    )


def _name_of(kind: type) -> str:
    return {torch.Tensor: "a tensor", type(None): "None"}.get(kind, kind.__name__)
