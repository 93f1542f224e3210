"""What is written beside problems of the user's own: the lexer.yaml that knows their tokens, and statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from trainwright.errors import DataError

_WHOLE = 999  # the largest number that is one token; larger ones are written in digits
_MOST = 20_000  # tokens for numbers that stand side by side, which digits would run together
_PIECE = re.compile(
    r"(?P<term>C-?\d+(?=\s+E\d)|E\d+)|(?<![A-Za-z0-9_])(?P<signed>-\d+(?:\.\d+)?)|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<name>[^\W\d]\w*)|(?P<symbol>\|\||\S)"
)


@dataclass
class Vocabulary:
    """The tokens of texts, collected one by one."""

    numbers: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    side_by_side: bool = False

    def add(self, text: str) -> None:
        """Take note of a text's tokens."""
        self.side_by_side = self.side_by_side or re.search(r"\d\s+-?\d", text) is not None
        for match in _PIECE.finditer(text):
            is_number = match["signed"] or match["number"]
            (self.numbers if is_number else self.words).add(match[0])

    def lexer(self) -> dict[str, Any]:
        """Return the content of a lexer.yaml that reads all these texts.

        Raises:
            DataError: there is none, for they hold numbers side by side that are too large.
        """
        whole = [int(number) for number in self.numbers if re.fullmatch(r"-?(0|[1-9]\d*)", number)]
        decimals = any("." in number for number in self.numbers)
        least, most = min(whole, default=0), max(whole, default=0)
        as_they_are = len(whole) == len(self.numbers)
        if self.side_by_side and not (as_they_are and most - least < _MOST):
            raise DataError(
                "The problems hold numbers with nothing between them that are too large for a token each. Write an "
                "operator, a comma or | between numbers."
            )
        grouped = not self.side_by_side and not (as_they_are and max(-least, most) <= _WHOLE)
        signed = least < 0 and not grouped
        ranges = {} if grouped or not self.numbers else {"numbers": ["", least, most]}
        symbols = self.words | ({"-"} if least < 0 else set())
        return {
            "vocab": {"range": ranges, "misc": sorted(symbols), "special_tokens": {}},
            "number_policy": {"attach_sign": signed, "digit_group": int(grouped), "allow_float": decimals},
            "strict": True,
        }


class Statistics:
    """Mean, spread and ends of numbers about problems and answers, collected one by one.

    Args:
        measure: `f(problem, answer)` returns numbers by name, or mappings of them by name.
    """

    def __init__(self, measure: Callable[[Any, Any], Any]) -> None:
        self.measure = measure
        self.rows = 0
        self.found: dict[str, dict[str, list[float]]] = {}

    def add(self, problem: Any, answer: Any) -> None:
        """Take note of a row.

        Raises:
            DataError: what the function returns is not of that form.
        """
        self.rows += 1
        measured = self.measure(problem, answer)
        for part, numbers in (measured if isinstance(measured, Mapping) else {"": measured}).items():
            for name, value in (numbers if isinstance(numbers, Mapping) else {"": numbers}).items():
                if not isinstance(value, Real):
                    raise DataError(
                        f"statistics_calculator returned {value!r} for {part}.{name}; a number by name is expected, "
                        "such as {'problem': {'terms': 3}, 'answer': {'terms': 2}}."
                    )
                self.found.setdefault(part, {}).setdefault(name, []).append(float(value))

    def summary(self) -> dict[str, Any]:
        """Return what is written: num_samples, and for every part the mean, std (of the whole), min and max by name."""
        made: dict[str, Any] = {"num_samples": self.rows}
        for part, numbers in self.found.items():
            by_name = {name: _summary(values) for name, values in numbers.items()}
            made[f"{part}_stats"] = by_name.get("", by_name)
        return made


def _summary(values: list[float]) -> dict[str, float]:
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return {"mean": mean, "std": spread, "min": min(values), "max": max(values)}
