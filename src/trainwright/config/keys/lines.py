"""A line of the table of what becomes of keys; the table is `config/keys/uses.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

EVERYONE, OURS, THEIRS, OUR_ROWS = "everyone", "ours", "theirs", "our rows"
"""Groups of methods, by which a line of `config/keys/uses.py` says whom it is about."""


class Fate(Enum):
    """What becomes of a key that is given."""

    USED = "used"
    NO_EFFECT = "no effect"
    REFUSED = "refused"


@dataclass(frozen=True, eq=False)
class Line:
    """What some trainers do with some keys, in place of using them.

    Attributes:
        keys: dotted names; a dataset's are `data.train.datasets.*.name`.
        trainers: who does so: names of methods, or groups of them; nobody in a method's own lines.
        fate: REFUSED or NO_EFFECT.
        why: the reason; where there is `used_if`, the condition under which the keys are used.
        instead: what to do.
        used_if: whether a configuration, or a section of a task's file, fulfils the condition.
        switch: the key that the condition is about; where a file gives it, nothing is said.
        fine: values that are what is done anyway, besides the default.
        is_told: another check tells it; the table only shows it.
    """

    keys: tuple[str, ...]
    trainers: tuple[str, ...]
    fate: Fate
    why: str
    instead: str = ""
    used_if: Callable[[Any], Any] | None = None
    switch: str = ""
    fine: tuple[Any, ...] = ()
    is_told: bool = False

    @property
    def allows(self) -> str:
        """The values that are taken for all that, and mean something."""
        return ", ".join(str(getattr(one, "name", one)) for one in self.fine if one and not isinstance(one, dict))

    @property
    def text(self) -> str:
        """What stands in a table."""
        if self.used_if is not None:
            return f"used with {self.why}, else {self.fate.value}"
        what = f"{self.why}; {self.instead}" if self.instead else self.why
        return f"{self.fate.value}{f', but for {self.allows}' if self.allows else ''}: {what}"
