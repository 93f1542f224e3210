"""Code of the user's that is called by name: whether it takes what it is called with, and returns what it must."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from trainwright.errors import ConfigError


def check_call(function: Any, name: str, given: Sequence[str], by_name: Sequence[str] = ()) -> None:
    """Check that a function takes what it will be called with; of one that says nothing of itself, nothing.

    Args:
        function: what was given.
        name: of it, in what is said.
        given: what it is called with by place.
        by_name: what it is called with by name.

    Raises:
        ConfigError: it is no function, or takes something else.
    """
    words = f"({', '.join([*given, *(f'{one}=...' for one in by_name)])})"
    if not callable(function):
        raise ConfigError(f"{name} is {function!r:.80}; it must be a function, which is called with {words}.")
    try:  # what a decorator wraps may take something else than the decorated function
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*given, **dict.fromkeys(by_name))
    except TypeError as error:
        more = " Let it take **kwargs." if by_name else ""
        raise ConfigError(f"{name}{signature} is called with {words}, but {error}.{more}") from None


def wants_trial(make: Any) -> bool:
    """Whether a `model_init` takes the trial: its first parameter does, unless that has a value of its own."""
    first = next(iter(inspect.signature(make).parameters.values()), None)
    return first is not None and (first.default is None or first.default is first.empty)


def check_overrides(part: Any, base: type) -> None:
    """Check that the methods of `base` which a user's subclass overrides take what those of `base` do.

    Raises:
        ConfigError: one does not.
    """
    for name, original in inspect.getmembers(base, inspect.isfunction):
        method = getattr(part, name)
        function = getattr(method, "__func__", method)
        if name.startswith("_") or function is original or is_of(function, "trainwright"):
            continue
        kinds = list(inspect.signature(original).parameters.values())[1:]
        places = [one.name for one in kinds if one.kind is one.POSITIONAL_OR_KEYWORD]
        check_call(
            method,
            f"{type(part).__name__}.{name}",
            places,
            [one.name for one in kinds if one.kind is one.KEYWORD_ONLY],
        )


def is_of(function: Any, package: str) -> bool:
    """Whether a function was written in a module of a package; `functools.wraps` does not change what it looks at."""
    module = getattr(getattr(function, "__func__", function), "__globals__", {}).get("__name__", "")
    return bool(module == package or module.startswith(f"{package}."))


def check_returned(fits: bool, value: Any, name: str, wanted: str) -> None:
    """Check what a user's code has returned.

    Raises:
        ConfigError: it does not fit.
    """
    if not fits:
        shape = getattr(value, "shape", None)
        kind = type(value).__name__ if shape is None else f"a {type(value).__name__} of shape {tuple(shape)}"
        kind = "nothing (None)" if value is None else kind
        raise ConfigError(f"{name} returned {kind}; it must return {wanted}.")
