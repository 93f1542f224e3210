"""What the rows of the job database hold, as the store gives them."""

from __future__ import annotations

import json
import time
from typing import Any, NotRequired, TypedDict, cast

from trainwright.jobs import values

_JSON = ("command", "params", "data", "kept", "moved", "tags")
_LISTS = ("command", "tags")


class Job(TypedDict):
    """A job; the columns of `schema.jobs`, those in JSON as what they hold."""

    id: str
    name: str
    experiment: str
    status: str
    command: list[str]  # empty for a script that was run by hand
    params: dict[str, Any]
    defaults: str | None  # which set of them; `typed.defaults` gives it
    data: dict[str, Any]
    kept: dict[str, Any]
    folder: str
    cwd: str | None
    host: str | None
    pid: int | None
    pid_created: float | None
    boot: str | None
    progress: float
    step: int | None
    total_steps: int | None
    message: str | None
    traceback: str | None
    created: float
    started: float | None
    starts: int
    ran: float
    ended: float | None
    heartbeat: float | None
    stop_requested: float | None
    moved: dict[str, int]
    after: str | None
    worker: str | None
    attempt: int
    restarts: int
    gpus: int
    tags: list[str]
    note: str | None
    changed: int


def until_now(job: Job) -> float:
    """Return the time, in seconds since 1970, and no earlier one than the job has told: the clock may have been set."""
    return max(time.time(), job["heartbeat"] or 0.0, job["started"] or 0.0)


class Event(TypedDict):
    """Something that happened to a job."""

    id: int
    job: str
    time: float
    kind: str
    text: str


class Artifact(TypedDict):
    """A file or folder that a job made; one that was found on the disk has no number."""

    id: NotRequired[int]
    job: NotRequired[str]
    time: float
    kind: str
    path: str
    step: int | None


class Attempt(TypedDict):
    """A process of a job that trained, and its seconds by `timesheet.PARTS`."""

    id: int
    job: str
    began: float
    first_step: int
    reached: int
    step: int
    starting: float
    training: float
    again: float
    evaluating: float
    saving: float
    other: float
    data: float
    exchanging: float


def column(name: str, value: Any) -> Any:
    """Return a value of a job as the column of this name holds it; tags as they are looked for."""
    return json.dumps(value, ensure_ascii=name != "tags") if name in _JSON else value


def packed(given: dict[str, Any]) -> dict[str, Any]:
    """Return values of a job as the table holds them."""
    made = {}
    for name, value in given.items():
        if name in _JSON and value is not None:
            made[name] = column(name, value if name in _LISTS else values.plain(value))
        else:
            made[name] = values.text(value) if isinstance(value, str) else value
    return made


def loaded(text: str | None, empty: Any) -> Any:
    """Return what a JSON column holds; `empty` where it is none, for one row must not take the others down."""
    try:
        found = json.loads(text) if text else empty
    except (ValueError, RecursionError):
        return empty
    return values.plain(found) if isinstance(found, dict) and "\\ud" in (text or "") else found


def job_of(row: Any) -> Job:
    """Return the job that a row of the table is."""
    found = {name: loaded(row[name], [] if name in _LISTS else {}) for name in _JSON}
    job: Any = {**row, **found}
    return cast(Job, job)
