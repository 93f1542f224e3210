"""What a person wrote on a command line as a value, and values as a command line says them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)")
_EXPONENT = re.compile(r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+|[-+]?(0|[1-9][0-9]*)[eE][-+][0-9]+")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_BOOLEAN = {"true": True, "True": True, "false": False, "False": False}


def key(name: str) -> str:
    """Return the name of a parameter: `learning-rate` and `learning_rate` are one."""
    return name.replace("-", "_")


def guessed(text: str) -> Any:
    """Return the number, true or false that a text stands for where nobody has declared what it is; else the text.

    Numbers are `7`, `0.10`, `.5`, and exponents with a sign or a point, `1e-4` and `1.5e3`. What looks like one and may
    be a name stays a text: `0010`, `2024_01_02`, `3e563`, `nan`, `TRUE`.
    """
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    try:
        if _WHOLE.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text) or _EXPONENT.fullmatch(text):
            number = float(text)
            is_lost = number == 0 and re.search("[1-9]", re.split("[eE]", text)[0])
            return number if math.isfinite(number) and not is_lost else text
    except ValueError:  # more digits than Python reads
        return text
    return text


def truth(text: str) -> bool:
    """Return what a word for true or false says.

    Raises:
        ValueError: it is none.
    """
    try:
        return _TRUTH[text.strip().lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither true nor false") from None


def like(text: str, example: Any) -> Any:
    """Return a text as a value of an example's type, where it is one; else what it is guessed to be."""
    if isinstance(example, str):
        return text
    kinds: dict[type, Callable[[str], Any]] = {bool: truth, int: int, float: float}
    try:
        return kinds.get(type(example), guessed)(text)
    except ValueError:
        return guessed(text)


def spelled(value: Any) -> str:
    """Return a value as a command line says it: a text as it is, lists and mappings as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if value is None or isinstance(value, dict | list | tuple) else str(value)
