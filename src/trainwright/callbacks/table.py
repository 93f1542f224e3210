"""The log on a terminal: a table that grows by a row at every log, no wider than the terminal and 100 characters."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NOT_SHOWN = ("epoch", "num_input_tokens_seen", "total_flos")
_OF_SPEED = ("_runtime", "_per_second", "_compilation_time", "_preparation_time")
_NAMES = {"loss": "loss", "grad_norm": "gradient", "learning_rate": "rate"}
_WIDTH, _WIDEST = 8, 16
_NARROWEST = 10  # characters of a line beside the step, however narrow the terminal
_GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column: what it shows of a log, its title (of several lines where it is longer), its width, and how a number
    is written."""

    key: str
    title: str
    width: int
    written: Callable[[Any], str]


class LogTable:
    """Makes the lines of the table.

    Args:
        width: characters of a line; a terminal that is narrower than the step and a number breaks the lines itself.
        steps: the last step as a text, which no step is wider than.
        speed: what the speed is counted in: "tokens/s" or "steps/s".
    """

    def __init__(self, width: int, steps: str, speed: str) -> None:
        self.speed = speed
        step_width = max(len("step"), 2 * len(steps) + 1)
        self.width = max(width, step_width + _NARROWEST)
        self.fixed = [
            Column("step", "step", step_width, str),
            *(Column(key, title, _WIDTH, rate if key == "learning_rate" else number) for key, title in _NAMES.items()),
            Column(speed, speed, _WIDTH, lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2f}"),
            Column("left", "left", 8, duration),
        ]
        self.columns: list[Column] = []
        self.others: list[str] = []

    def lines(self, logs: Mapping[str, Any], progress: Mapping[str, Any]) -> list[str]:
        """Return the row of a log, below a header where there is none yet, or where it shows what was not there yet.

        Args:
            logs: the logged numbers.
            progress: step, speed and time left.
        """
        asked = [name for name in logs if name not in (*_NOT_SHOWN, *_NAMES)]
        new = [name for name in asked if name not in self.others]
        lines = []
        if new or not self.columns:
            self.others += new
            lines = self._header()
        values = {**logs, **progress}
        return [
            *lines,
            self._joined([one.written(values[one.key]) if one.key in values else "" for one in self.columns]),
        ]

    def evaluation(self, logs: Mapping[str, Any], step: str) -> list[str]:
        """Return the lines of an evaluation's numbers: by their names, as many in a line as fit."""
        seconds = next((value for name, value in logs.items() if name.endswith("_runtime")), None)
        shown = [
            f"{name} {number(value)}" for name, value in logs.items() if name not in _NOT_SHOWN and not _is_speed(name)
        ]
        words = [*shown, *([f"({seconds:.1f} s)"] if is_number(seconds) else [])]
        begin = step.rjust(self.fixed[0].width) + _GAP
        text = _GAP.join(word.replace(" ", "\0") for word in words)
        wrapped = textwrap.wrap(
            text, self.width - len(begin), break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        return [(begin if not i else " " * len(begin)) + line.replace("\0", " ") for i, line in enumerate(wrapped)]

    def _header(self) -> list[str]:
        """Choose the columns that fit; return the titles, and a line that names what else is logged."""
        self.columns, room = [], self.width + len(_GAP)
        left_out: list[str] = []
        for column in [*self.fixed, *map(_column, self.others)]:
            if left_out or column.width + len(_GAP) > room:
                left_out.append(column.key)
            else:
                self.columns.append(column)
                room -= column.width + len(_GAP)
        titles = [textwrap.wrap(one.title, one.width) for one in self.columns]
        height = max(map(len, titles))
        padded = [[""] * (height - len(title)) + title for title in titles]
        lines = [self._joined([title[number] for title in padded]) for number in range(height)]
        also = [name for name in left_out if name in (*_NAMES, *self.others)]
        more = f"Also in the log history: {', '.join(also)}." if also else ""
        return [*textwrap.wrap(more, self.width, break_long_words=False), *lines]

    def _joined(self, cells: Sequence[str]) -> str:
        return _GAP.join(cell.rjust(one.width) for cell, one in zip(cells, self.columns, strict=True)).rstrip()


def _column(name: str) -> Column:
    """Return the column of a number that was asked for; its title is broken where words end."""
    title = name.replace("_", " ").replace("/", "/ ")
    return Column(name, title, min(_WIDEST, max([_WIDTH, *map(len, title.split())])), number)


def is_evaluation(logs: Mapping[str, Any]) -> bool:
    """Whether a log is that of an evaluation: all its numbers are of one, but for the epoch and what was seen."""
    names = [name for name in logs if name not in _NOT_SHOWN]
    return bool(names) and all(name.startswith(("eval_", "test_")) for name in names)


def is_of_whole_run(logs: Mapping[str, Any]) -> bool:
    """Whether a log holds the numbers of a whole run."""
    return "train_runtime" in logs


def _is_speed(name: str) -> bool:
    return name.endswith(_OF_SPEED)


def is_number(value: Any) -> bool:
    """Whether a logged value is a number, and not a text, which an overridden `log` may make of it."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any) -> str:
    """Return a number with four digits that count, aligned for the usual sizes; other values as they are."""
    if not is_number(value):
        return str(value)
    if isinstance(value, int) or not math.isfinite(value) or value == 0:
        return str(value)
    size = abs(value)
    if 1e-3 <= size < 1e5:
        digits = max(0, 4 - max(1, len(str(int(size)))) + (size < 1))
        return f"{value:.{max(digits, 1)}f}"
    return f"{value:.2e}"


def rate(value: Any) -> str:
    """Return a learning rate."""
    return f"{value:.2e}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Return a time for people: 42 s, 3:07, 1:02:03; empty where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
