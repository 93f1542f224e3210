"""Numbers of a command line, refused where they are too small, or too great, to mean anything."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def at_least(least: Number, most: float = math.inf) -> Callable[[str], Number]:
    """Return what reads a number of the kind of `least`, as argparse's `type`, and refuses one beyond the bounds."""
    kind = type(least)

    def read(text: str) -> Number:
        value = kind(text)
        if not value >= least:  # NaN is not
            raise argparse.ArgumentTypeError(f"{text} is too small; at least {least:g} is expected")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is too great; at most {most} is expected")
        return value

    read.__name__ = kind.__name__  # which argparse names where the text is no number
    return read


def size(text: str) -> str:
    """Return how much a file holds, such as 5GB, as argparse's `type`."""
    found = re.fullmatch(r"(\d+\.?\d*)(TB|GB|MB|KB)", text.upper())
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text} is no size; a number and KB, MB, GB or TB are expected, such as 5GB")
    return text.upper()


def written(text: str) -> str:
    """Return a text for a model, as argparse's `type`; bytes that are no UTF-8 are none."""
    if not text.isascii() and text != text.encode(errors="replace").decode():
        raise argparse.ArgumentTypeError("a text in UTF-8 is expected")
    return text
