"""What the rows of the job database hold, as the store gives them."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Job(TypedDict):
    """A job; the columns of `schema.jobs`, those in JSON as what they hold."""

    id: str
    name: str
    experiment: str
    status: str
    command: list[str]  # empty for a script that was run by hand
    params: dict[str, Any]
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
