"""Values as JSON and every database hold them: what scripts give is brought to them where it enters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

NAME_LENGTH, KIND_LENGTH = 200, 40  # characters, of the database's columns
_DEEPEST = 60
_LARGEST = 2**63  # of SQLite's and PostgreSQL's whole numbers
_LONGEST = 4_000_000  # bytes of one value as JSON


def text(value: Any, longest: int | None = None) -> str:
    """Return a value as text without what is none: lone surrogates and zero bytes are written as Python writes them."""
    made = value if isinstance(value, str) else str(value)
    if not made.isascii():
        made = made.encode("utf-8", "backslashreplace").decode("utf-8")
    if "\0" in made:
        made = made.replace("\0", "\\x00")
    return made if longest is None or len(made) <= longest else made[: longest - 1] + "…"


def number(value: Any) -> float:
    """Return a value as a float; nan and the infinities are some.

    Raises:
        ValueError: it is no number.
    """
    try:
        return float(value)
    except Exception as error:  # anything may be given, and its own __float__ may fail in any way
        raise ValueError(f"{_shown(value)} is no number ({type(error).__name__})") from None


def finite(value: Any) -> float:
    """Return a number that is one.

    Raises:
        ValueError: it is none, nan or infinite.
    """
    made = number(value)
    if not math.isfinite(made):
        raise ValueError(f"{made} is no finite number")
    return made


def whole(value: Any, below: int = _LARGEST) -> int:
    """Return a whole number between -`below` and `below`.

    Raises:
        ValueError: it is none.
    """
    try:
        made = int(value)
        is_whole = isinstance(value, str | bytes) or bool(made == value)
    except Exception:
        is_whole = False
    if not is_whole:
        raise ValueError(f"{_shown(value)} is no whole number")
    if not -below < made < below:
        raise ValueError(f"{_shown(made)} is beyond 2**{below.bit_length() - 1}")
    return made


def point(name: Any, value: Any, step: Any) -> tuple[str, float, int | None]:
    """Return name, value and step of a metric.

    Raises:
        ValueError: the value or the step is no number; it names the metric.
    """
    name = text(name, NAME_LENGTH)
    try:
        return name, number(value), None if step is None else whole(step)
    except ValueError as error:
        raise ValueError(f"A value of the metric '{name}' was left out: {error}.") from None


def kept(name: Any, value: Any) -> tuple[str, Any]:
    """Return name and value of what is kept with a job.

    Raises:
        ValueError: the value is too long; it is named.
    """
    name, made = text(name, NAME_LENGTH), plain(value)
    length = len(json.dumps(made))
    if length > _LONGEST:
        raise ValueError(
            f"'{name}' was left out: its value has {length:,} bytes, and at most {_LONGEST:,} are kept with a job."
        )
    return name, made


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value of JSON that says the same: keys are text, tuples and sets are lists, arrays too, others text."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < _LARGEST):
        return value
    if isinstance(value, str):
        return text(value)
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {text(key): plain(one, depth + 1) for key, one in list(value.items())}
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [plain(one, depth + 1) for one in list(value)]
    if depth < _DEEPEST and hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist(), depth + 1)
    return _shown(value)


def for_json(value: Any, deepest: int = _DEEPEST) -> Any:
    """Return a value as JSON that every reader knows has it: nan and the infinities are the texts nan, inf and -inf,
    which `float` reads, and what lies too deep is an ellipsis."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list | tuple) and not deepest:
        return "…"
    if isinstance(value, dict):
        return {key: for_json(one, deepest - 1) for key, one in value.items()}
    return [for_json(one, deepest - 1) for one in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    try:
        return text(value, NAME_LENGTH)
    except Exception:  # its own __str__ may fail in any way, and whole numbers of many digits have none
        return f"a {type(value).__name__}"
