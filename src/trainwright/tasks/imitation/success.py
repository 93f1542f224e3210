"""When an episode is a success: what the environment says itself, its task, or a return."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainwright.errors import ConfigError

RULES = ("info", "terminated", "survived")
# By the environment's name without its version. In the others of gymnasium an end may be a fall or a crash.
TASKS = {
    **dict.fromkeys(("CartPole", "InvertedPendulum", "InvertedDoublePendulum"), "survived"),
    **dict.fromkeys(
        ("MountainCar", "MountainCarContinuous", "Acrobot", "CliffWalking", "CliffWalkingSlippery", "Taxi"),
        "terminated",
    ),
}
_FLAGS = ("is_success", "success")
_WORDS = {
    "info": "is_success from the environment",
    "terminated": "the end of the task before the time-out",
    "survived": "no end before the time-out",
}


@dataclass(frozen=True)
class Success:
    """What counts as a success.

    Attributes:
        rule: one of RULES, the return that is needed, or None where nothing is known.
        asks: whether what the environment itself says goes before.
        text: the rule in words.
    """

    rule: str | float | None
    asks: bool
    text: str

    def won(self, terminated: bool, flag: bool | None, total: float) -> bool | None:
        """Return whether an episode succeeded; None where nobody can say.

        Args:
            terminated: it ended before the time-out.
            flag: what the environment said; None for nothing.
            total: the sum of its rewards.
        """
        if flag is not None and self.asks:
            return flag
        if self.rule is None or self.rule == "info":
            return None if self.rule is None else False
        if isinstance(self.rule, str):
            return terminated == (self.rule == "terminated")
        return total >= self.rule


def check(given: Any) -> None:
    """Raise a ConfigError where `rollout.success` is no rule and no return."""
    if given is None or given in RULES or (isinstance(given, int | float) and not isinstance(given, bool)):
        return
    raise ConfigError(
        f"rollout.success '{given}' is not known; known: {', '.join(RULES)}, a number (the least return)."
    )


def success_of(spec: Any, given: str | float | None) -> Success:
    """Return what counts as a success.

    Args:
        spec: gymnasium's, of the environment.
        given: by the user; None for the environment's task (`TASKS`), or the return that gymnasium holds it solved at.
    """
    if given is not None:
        words = _WORDS[given] if isinstance(given, str) else f"a return of at least {given:g}"
        return Success(given, isinstance(given, str), words)
    task = TASKS.get(re.sub(r"-v\d+$", "", spec.id.rpartition("/")[2]))
    if task is not None:
        return Success(task, True, _WORDS[task])
    if spec.reward_threshold is not None:
        least = float(spec.reward_threshold)
        return Success(least, True, f"a return of at least {least:g}, at which {spec.id} counts as solved")
    text = (
        f"what {spec.id} says; where it says nothing there is no success rate, and the return counts (rollout.success: "
        f"{', '.join(RULES)} or a return)"
    )
    return Success(None, True, text)


def flags(info: Mapping[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of some environments side by side say something of their success, and what; bool, (count,) each.

    gymnasium joins their answers: `_is_success` tells whose stand in `is_success`.
    """
    told, value = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for name in _FLAGS:
        if name in info:
            whose = np.asarray(info.get(f"_{name}", np.ones(count)), dtype=bool) & ~told
            value[whose] = np.asarray(info[name])[whose].astype(bool)
            told |= whose
    return told, value
