"""Lengths of time as people write them: '8h', '1d12h', '90s', or seconds as a number."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = r"\d+(?:\.\d+)?\s*[dhms]"
_LENGTH = re.compile(rf"(?:{_PART}\s*)+")


def seconds(length: Any) -> float:
    """Return a length of time in seconds.

    Raises:
        ValueError: it is none, or not above 0.
    """
    if isinstance(length, str):
        text = length.strip().lower()
        if _LENGTH.fullmatch(text):
            parts = re.findall(_PART, text)
            length = sum(float(part[:-1]) * _UNITS[part[-1]] for part in parts)
        else:
            length = float(text)
    if isinstance(length, bool) or not 0 < length < float("inf"):
        raise ValueError(f"{length!r} is no length of time above 0")
    return float(length)
