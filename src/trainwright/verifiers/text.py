"""Answers that are texts or numbers."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+)?")
_LONGEST = 400  # characters of a number that is read


def answer_in(completion: str, pattern: str | None) -> str:
    """Return what of a completion is the answer: the last match of a pattern (its first group, where it has one), or
    all of it without spaces around; nothing where the pattern does not match."""
    if pattern is None:
        return completion.strip()
    found = list(re.finditer(pattern, completion, re.DOTALL))
    return (found[-1].group(found[-1].re.groups and 1) or "").strip() if found else ""


def exact_match(completion: str, answer: str, pattern: str | None = None, ignore_case: bool = False) -> float:
    """Return 1.0 if the answer is the reference, without spaces around both.

    Args:
        completion: what was written.
        answer: the reference.
        pattern: finds the answer in the completion; see `answer_in`.
        ignore_case: whether capitals do not matter.
    """
    given, wanted = answer_in(completion, pattern), str(answer).strip()
    return float(given.casefold() == wanted.casefold() if ignore_case else given == wanted)


def numeric(
    completion: str, answer: str | float, tolerance: float = 1e-6, relative: float = 0.0, pattern: str | None = None
) -> float:
    """Return 1.0 if the last number of the answer is the reference, which may differ by `tolerance` or `relative`.

    Args:
        completion: what was written; `1,234.5`, `-2e3` and `3/4` are numbers.
        answer: the reference.
        tolerance: absolute difference that is none.
        relative: the same, as a share of the reference.
        pattern: finds the answer in the completion; see `answer_in`.
    """
    given, wanted = _last_number(answer_in(completion, pattern)), _last_number(str(answer))
    if given is None or wanted is None:
        return 0.0
    return float(abs(given - wanted) <= max(Fraction(tolerance), Fraction(relative) * abs(wanted)))


def _last_number(text: str) -> Fraction | None:
    found = [one for one in _NUMBER.findall(text) if len(one) <= _LONGEST]
    if not found:
        return None
    above, _, below = found[-1].replace(",", "").partition("/")
    try:
        return Fraction(above.strip()) / Fraction(below.strip() or 1)
    except (ValueError, ZeroDivisionError):
        return None


def matches(completion: str, pattern: str, whole: bool = True) -> float:
    """Return 1.0 if a completion has a form, by a regular expression in which a dot is any character.

    Args:
        completion: what was written.
        pattern: the form.
        whole: whether all of the completion has it, without spaces around; else a part.
    """
    found = re.fullmatch(pattern, completion.strip(), re.DOTALL) if whole else re.search(pattern, completion, re.DOTALL)
    return float(found is not None)
