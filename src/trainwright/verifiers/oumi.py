r"""Rewards by the names that Oumi registers, with its numbers: how many words were written, and letters counted.

Its `gsm8k` and `countdown` are called in VERL's way and are not here; `numeric` finds an answer's last number.
"""

from __future__ import annotations

import math
import re

_BOXED = re.compile(r"\\boxed\{([-+]?\d+)\}")


def _soft(completion: str, target: int) -> float:
    """Return x · exp(1 - x), x being the number of words over the target: 1 at the target, 0 far from it."""
    share = len(completion.split()) / target
    return share * math.exp(1 - share)


def _sharp(completion: str, target: int) -> float:
    """Return how far the number of words is from the target, negative."""
    return -float(abs(len(completion.split()) - target))


def soft_5tokens_completions(completion: str) -> float:
    """Return `_soft` for 5 words."""
    return _soft(completion, 5)


def soft_10tokens_completions(completion: str) -> float:
    """Return `_soft` for 10 words."""
    return _soft(completion, 10)


def soft_20tokens_completions(completion: str) -> float:
    """Return `_soft` for 20 words."""
    return _soft(completion, 20)


def sharp_5tokens_completions(completion: str) -> float:
    """Return `_sharp` for 5 words."""
    return _sharp(completion, 5)


def sharp_10tokens_completions(completion: str) -> float:
    """Return `_sharp` for 10 words."""
    return _sharp(completion, 10)


def sharp_20tokens_completions(completion: str) -> float:
    """Return `_sharp` for 20 words."""
    return _sharp(completion, 20)


def count_letters(completion: str, letter_count: int) -> float:
    r"""Return 1 / (d + 0.5) - 2, d being how far the one number in \boxed{} is from `letter_count`; -3 without one."""
    found = _BOXED.findall(completion)
    if len(found) != 1:
        return -3.0
    return 1 / (abs(int(found[0]) - letter_count) + 0.5) - 2
