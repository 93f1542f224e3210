"""Where the time of a process that trains goes: every moment belongs to one part, so that the parts add up."""

from __future__ import annotations

import time
from typing import Any, Literal, get_args

from trainwright.jobs import clock

Part = Literal["starting", "training", "again", "evaluating", "saving", "other", "data", "exchanging"]
_OF_STEPS: tuple[Part, ...] = ("training", "again", "data", "exchanging")
PARTS: tuple[Part, ...] = get_args(Part)


class Timesheet:
    """The seconds of one process, by what they were spent on; nothing waits for a device to know them.

    `starting` is until the first step, `again` are steps that an earlier process had done, `data` is what training
    waits for a batch, `exchanging` for what the ranks tell each other between the steps, `saving` for a save, and
    `other` what a script does besides once it has trained. What a device has still to compute where training waits for
    a save or an evaluation counts as these.

    Args:
        passed: seconds from the beginning of the process until now.
        earlier: steps that earlier processes had done, by the folder of their run.

    Attributes:
        began: when the process began, in seconds since 1970.
        run: the folder of the run that trains, or trained last.
        first_step: steps that were done when that run began, or went on.
        reached: steps of it that earlier processes had done.
        step: steps of it that are done.
    """

    def __init__(self, passed: float = 0.0, earlier: dict[str, int] | None = None) -> None:
        self.began = clock.now() - passed
        self.earlier = earlier or {}
        self.run, self.first_step, self.reached, self.step = "", 0, 0, 0
        spent: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._now: tuple[Part, float, dict[Part, float]] = (
            "starting",
            time.perf_counter(),
            {**spent, "starting": passed},
        )

    def begin(self, run: str, step: int) -> None:
        """Note that a run begins or goes on, after so many steps."""
        self.run, self.first_step, self.reached, self.step = run, step, max(self.earlier.get(run, 0), step), step

    def begin_step(self) -> None:
        """Note that a step begins."""
        part: Part = "again" if self.step < self.reached else "training"
        if part != self._now[0]:
            self.turn(part)

    def turn(self, part: Part) -> Part:
        """Spend the time from now on with a part; return the one until now."""
        before = self._now[0]
        now, spent = self._read()
        self._now = (part, now, spent)  # at once, for the thread that reads it
        return before

    def spending(self, part: Part) -> Spending:
        """Spend the time of the body with a part."""
        return Spending(self, part)

    def trained(self) -> float:
        """Return the seconds that went into steps, with what they waited for data and other ranks."""
        spent = self._read()[1]
        return sum(spent[part] for part in _OF_STEPS)

    def told(self) -> dict[str, Any]:
        """Return what a journal keeps of it."""
        spent = {part: round(seconds, 6) for part, seconds in self._read()[1].items()}
        return {"began": self.began, "run": self.run, "first_step": self.first_step, "reached": self.reached,
                "step": self.step, "spent": spent}  # fmt: skip

    def _read(self) -> tuple[float, dict[Part, float]]:
        part, since, spent = self._now
        now = time.perf_counter()
        return now, {**spent, part: spent[part] + now - since}


class Spending:
    """Spends the time of a body with a part of a timesheet; of every step, so no generator."""

    __slots__ = ("before", "part", "sheet")

    def __init__(self, sheet: Timesheet, part: Part) -> None:
        self.sheet, self.part = sheet, part

    def __enter__(self) -> None:
        self.before = self.sheet.turn(self.part)

    def __exit__(self, *error: object) -> None:
        self.sheet.turn(self.before)
