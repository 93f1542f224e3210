"""Statuses that come right by themselves: what a dead process left behind is read, and it is called lost."""

from __future__ import annotations

import time
from pathlib import Path

from trainwright.jobs import paths, processes
from trainwright.jobs.status import HEARTBEAT_SECONDS, LOST, LOST_SECONDS, RUNNING, STOPPED
from trainwright.jobs.store.rows import Job, until_now
from trainwright.jobs.store.store import Store

_STARTING_SECONDS = 30.0  # from a worker's claim to the first word of the process
_WATCH_SECONDS = 3 * HEARTBEAT_SECONDS  # that a heartbeat of another machine is looked for before a verdict


def sweep(store: Store, wait: bool = False, again: bool = False) -> None:
    """Move what journals of this machine still hold, and mark the jobs whose process is gone.

    Args:
        wait: watch a job of another machine for some seconds, where that is needed to tell whether it lives.
        again: this process looks again and again, so that a look need not be at all journals.
    """
    if again:
        store.move_grown()
    else:
        store.move_all()
    running = {job["id"]: job for job in store.jobs([RUNNING])}
    doubtful = [job for job in running.values() if wait and _is_silent(job)]
    if any(is_alive(store, job) for job in doubtful):
        time.sleep(_WATCH_SECONDS)
        running = {job["id"]: job for job in store.jobs([RUNNING])}
    for job in running.values():
        if not is_alive(store, job) and not _its_worker_lives(job):
            mark_gone(store, job, "Its process vanished without a word.", _last_word(job))


def is_alive(store: Store, job: Job) -> bool:
    """Whether a running job's process lives: on this machine by its number, elsewhere by its heartbeat.

    Clocks of two machines differ and may be set, so a heartbeat has to stand still while this process watches.
    """
    if not _is_elsewhere(job):
        if job["pid"] is None:
            return time.time() - (job["heartbeat"] or job["created"]) < _STARTING_SECONDS
        return processes.lives(job["pid"], job["pid_created"], job["boot"])
    heard, since = store.heard.get(job["id"], (None, 0.0))
    if heard != job["heartbeat"] or not since:
        since = time.monotonic()
        store.heard[job["id"]] = (job["heartbeat"], since)
    watched = time.monotonic() - since
    return watched < LOST_SECONDS and not (_is_silent(job) and watched >= _WATCH_SECONDS)


def _is_silent(job: Job) -> bool:
    """Whether a job of another machine was last heard of long ago, as far as two machines' clocks tell."""
    return _is_elsewhere(job) and time.time() - (job["heartbeat"] or job["created"]) > LOST_SECONDS


def _is_elsewhere(job: Job) -> bool:
    return job["host"] not in (None, processes.hostname())


def _its_worker_lives(job: Job) -> bool:
    """Whether the worker that began a job is there to read its exit code, and so knows better how it ended."""
    parts = (job["worker"] or "").rsplit(":", 2)  # machine, number and beginning of its process
    try:
        here = parts[0] == processes.hostname()
        return here and processes.lives(int(parts[1]), float(parts[2]), job["boot"])
    except (IndexError, ValueError):
        return False


def _last_word(job: Job) -> float:
    """Return when a job was last heard of, for nobody knows how long its process has been gone."""
    return job["heartbeat"] or job["started"] or job["created"]


def mark_gone(store: Store, job: Job, message: str, ended: float | None = None) -> None:
    """End a job whose process is gone, now or then; its own last word, where it left one, goes before."""
    folder = Path(job["folder"])
    if (folder / paths.JOURNAL).is_file():
        store.move(job["id"], folder)
    asked = store.find(job["id"])["stop_requested"] is not None
    status, text = (STOPPED, "Stopped on request.") if asked else (LOST, message)
    store.update(job["id"], [RUNNING], status=status, ended=ended or until_now(job), message=text)
