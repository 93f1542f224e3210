"""What a job's process began ends with the job, however that ends, with a worker or without one."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

import psutil

from trainwright.jobs import paths, processes

_GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
_LOOK_SECONDS = 0.5  # where a process cannot be waited for


def end_with_this_process() -> None:
    """Let a process of its own, which nobody who ends this one ends too, wait for that and end what is left of it."""
    job, attempt = os.environ.get(paths.JOB_ID, ""), os.environ.get(paths.ATTEMPT, "")
    leader, since = os.getpid(), processes.created(os.getpid())
    between = os.fork()
    if between:
        os.waitpid(between, 0)  # so the one that waits is no child of the job, which may wait for all of its own
        return
    try:
        os.setsid()
        if os.fork() == 0:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            _wait(leader, since)
            end_all(leader, job, attempt)
    finally:
        os._exit(0)


def _wait(pid: int, since: float | None) -> None:
    """Wait for the end of a process."""
    if sys.platform == "linux":
        with suppress(OSError):
            descriptor = os.pidfd_open(pid)
            if processes.lives(pid, since):
                select.select([descriptor], [], [])
    while processes.lives(pid, since):
        time.sleep(_LOOK_SECONDS)


def end_all(leader: int, job: str, attempt: str) -> None:
    """End the processes of a job's attempt whose own process is gone: at first by SIGTERM, then by SIGKILL."""
    end = time.monotonic() + _GRACE_SECONDS
    termed: set[int] = set()
    while found := _left(leader, job, attempt):
        is_late = time.monotonic() > end
        for process in found:
            if is_late or process.pid not in termed:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL if is_late else signal.SIGTERM)
            termed.add(process.pid)
        time.sleep(1.0 if is_late else 0.1)


def _left(leader: int, job: str, attempt: str) -> list[psutil.Process]:
    """Return the processes of the leader's group, and those elsewhere that have the job's environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid in (leader, os.getpid()) or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if os.getpgid(process.pid) == leader or _is_of(process, job, attempt):
                found.append(process)
    return found


def _is_of(process: psutil.Process, job: str, attempt: str) -> bool:
    environment = process.environ()
    return bool(job) and (environment.get(paths.JOB_ID), environment.get(paths.ATTEMPT)) == (job, attempt)
