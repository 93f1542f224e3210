"""Processes of this machine: which one a number stands for, whether it lives, and how it is made to end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from trainwright.errors import JobError
from trainwright.jobs import places


def hostname() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def created(pid: int) -> float | None:
    """Return when a process began, in seconds since 1970; None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def lives(pid: int | None, since: float | None) -> bool:
    """Whether the very process that began then lives, and not a later one of the same number."""
    if pid is None:
        return False
    found = created(pid)
    return found is not None and (since is None or abs(found - since) < 1.0)


def send(pid: int, number: int) -> None:
    """Send a signal to a process and to those that it began, if it leads a group of them."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    return signal.Signals(number).name


@contextmanager
def holding(path: Path, what: str) -> Iterator[None]:
    """Hold a file's lock, which ends with the process whatever happens to it.

    Raises:
        JobError: another process holds it.
    """
    import fcntl

    places.make(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise JobError(f"{what} already: another process holds '{path}'.") from None
    try:
        yield
    finally:
        os.close(descriptor)
