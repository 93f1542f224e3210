"""How the commands of jobs print: tables, pairs of names and values, JSON, and times."""

from __future__ import annotations

import json
import time
from typing import Any

from trainwright.jobs import values
from trainwright.jobs.status import RUNNING
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.worker import health

_EXACT = 2**53  # below which a float is the whole number that it says
_WIDEST = 80  # letters of a cell, such as a prompt that is a parameter


def opened() -> Store:
    """Return the store, with the statuses of all jobs as they are now."""
    store = Store()
    health.sweep(store, wait=True)
    return store


def age(job: Job) -> str:
    """Return how long a job has run, all its attempts together, or waits."""
    return span(_seconds(job))


def _seconds(job: Job) -> float:
    until = job["ended"] or max(time.time(), job.get("heartbeat") or 0.0, job["started"] or 0.0)  # it may have been set
    if job["started"] is not None:
        return float(job["ran"] + until - job["started"])
    return float(job["ran"] or until - job["created"])


def moment(seconds: float) -> str:
    """Return a time since 1970 as the clock of this place has it, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def left(job: Job) -> str:
    """Return how long a running job will still take, if it goes on as until now."""
    if job["status"] != RUNNING or not job["progress"] or job["started"] is None:
        return ""
    return span(_seconds(job) * (100 - job["progress"]) / job["progress"])


def span(seconds: float) -> str:
    """Return a time as a person says it: 42 s, 3:05, 2:14:09."""
    whole = int(max(seconds, 0))
    if whole < 100:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def pairs(title: str, pairs: Any) -> None:
    """Print names and values in two columns, below a title where there is one; nothing where there are none."""
    if title and pairs:
        print(f"\n{title}")
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{name:<{width}}  {value}")


def short(value: Any) -> str:
    """Return a value as a cell of a table; a whole number has all its digits."""
    if isinstance(value, float):
        return f"{value + 0.0:.0f}" if value.is_integer() and abs(value) < _EXACT else f"{value:g}"
    return "" if value is None else str(value)


def exact(value: Any) -> str:
    """Return a parameter's value as it was given: every digit counts."""
    return repr(value) if isinstance(value, float) and not value.is_integer() else short(value)


def print_json(value: Any) -> None:
    """Print a value for machines."""
    print(json.dumps(values.for_json(value), indent=1))


def table(head: Any, rows: Any) -> None:
    """Print rows below a head, in columns as wide as they need; of a longer cell its beginning and its end."""
    rows = [[_cut(_printable(str(cell))) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST // 2 - 1]}…{text[-_WIDEST // 2 :]}"


def _printable(text: str) -> str:
    """Return a text without what moves a terminal's cursor or changes its colours."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
