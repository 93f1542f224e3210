"""Statuses that come right by themselves: what a dead process left behind is read, and it is called lost."""

from __future__ import annotations

import time
from pathlib import Path

from trainwright.jobs import places, processes
from trainwright.jobs.status import LOST, LOST_SECONDS, RUNNING, STOPPED
from trainwright.jobs.store import Job, Store

_STARTING_SECONDS = 30.0  # from a worker's claim to the first word of the process


def sweep(store: Store) -> None:
    """Move what journals of this machine still hold, and mark the jobs whose process is gone."""
    moved = store.moved()
    for path in sorted((places.home() / "jobs").glob(f"*/{places.JOURNAL}")):
        if path.stat().st_size > moved.get(path.parent.name, 0):
            store.move(path.parent.name, path.parent)
    for job in store.jobs([RUNNING]):
        if not is_alive(job) and not _its_worker_lives(job):
            mark_gone(store, job, "Its process vanished without a word.")


def is_alive(job: Job) -> bool:
    """Whether a running job's process lives: on this machine by its number, elsewhere by its heartbeat."""
    if job["host"] != processes.hostname():
        return time.time() - (job["heartbeat"] or job["created"]) < LOST_SECONDS
    if job["pid"] is None:
        return time.time() - (job["started"] or job["created"]) < _STARTING_SECONDS
    return processes.lives(job["pid"], job["pid_created"])


def _its_worker_lives(job: Job) -> bool:
    """Whether the worker that began a job is there to read its exit code, and so knows better how it ended."""
    parts = (job["worker"] or "").rsplit(":", 2)  # machine, number and beginning of its process
    return len(parts) == 3 and parts[0] == processes.hostname() and processes.lives(int(parts[1]), float(parts[2]))


def mark_gone(store: Store, job: Job, message: str) -> None:
    """End a job whose process is gone; its own last word, where it left one, goes before."""
    folder = Path(job["folder"])
    if (folder / places.JOURNAL).is_file():
        store.move(job["id"], folder)
    asked = store.find(job["id"])["stop_requested"] is not None
    status, text = (STOPPED, "Stopped on request.") if asked else (LOST, message)
    store.update(job["id"], [RUNNING], status=status, ended=time.time(), message=text)
