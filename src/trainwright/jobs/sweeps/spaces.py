"""What a sweep tries: `lr=1e-4,3e-4` are values, `lr=log(1e-5,1e-3)` is a range, `steps=100` is the same in all."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainwright.errors import JobError

_RANGE = re.compile(r"(?P<kind>log|uniform|int)\((?P<inside>.*)\)")
_CHOICE = re.compile(r"choice\((?P<inside>.*)\)")
_OPENING, _CLOSING = "[({", "])}"


@dataclass(frozen=True)
class Choices:
    """Values as they are written."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """Numbers between two: evenly, or evenly in their logarithm; whole ones, or all."""

    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False


Space = dict[str, Choices | Range]


def read(words: Sequence[str]) -> tuple[Space, list[str]]:
    """Return what is tried, by the parameter's name, and the words that are the same in all.

    Raises:
        JobError: a word is neither, or nothing is tried.
    """
    space: Space = {}
    same = []
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        if not equals or not name:
            raise JobError(f"{word!r} is no NAME=VALUES, such as lr=1e-4,3e-4 or lr=log(1e-5,1e-3).")
        if name in space:
            raise JobError(f"{name} is given twice.")
        found = one(name, text)
        if isinstance(found, str):
            same.append(f"{name}={found}")
        else:
            space[name] = found
    if not space:
        raise JobError("A sweep needs something to try: NAME=A,B or NAME=log(1e-5,1e-3).")
    return space, same


def one(name: str, text: str) -> Choices | Range | str:
    """Return what the text after a name says.

    Raises:
        JobError: a range is none.
    """
    found = _RANGE.fullmatch(text)
    if found is not None:
        return _range(name, found["kind"], split(found["inside"]))
    chosen = _CHOICE.fullmatch(text)
    values = split(text if chosen is None else chosen["inside"])
    if len(values) == 1 and chosen is None:
        return text
    if "" in values or len({*values}) < len(values):
        raise JobError(f"{name}={text}: each value is given once, with commas between, and none is empty.")
    return Choices(tuple(values))


def split(text: str) -> list[str]:
    """Return what commas part, but for those inside brackets."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


def grid(space: Space) -> list[dict[str, str]] | None:
    """Return every combination, the last name changing fastest; None where a range has no end of them."""
    names, values = [*space], []
    for own in space.values():
        if isinstance(own, Range):
            return None
        values.append(own.values)
    return [dict(zip(names, made, strict=True)) for made in itertools.product(*values)]


def overrides(params: Mapping[str, str]) -> list[str]:
    """Return the words that give values to parameters."""
    return [f"{name}={text}" for name, text in params.items()]


def _range(name: str, kind: str, ends: Sequence[str]) -> Range:
    try:
        low, high = map(float, ends)
    except ValueError:
        raise JobError(f"{name}={kind}({','.join(ends)}): two numbers are expected, {kind}(LEAST,GREATEST).") from None
    is_whole, is_log = kind == "int", kind == "log"
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high or (is_log and low <= 0):
        more = ", both above 0" if is_log else ""
        raise JobError(f"{name}={kind}({ends[0]},{ends[1]}): the first is to be below the second{more}.")
    if is_whole and not (low.is_integer() and high.is_integer()):
        raise JobError(f"{name}={kind}({ends[0]},{ends[1]}): whole numbers are expected.")
    return Range(low, high, is_log, is_whole)
