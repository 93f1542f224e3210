"""Processes of this machine: which one a number stands for, whether it lives, and how it is made to end."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from trainwright.errors import JobError
from trainwright.jobs import paths

_LONGEST_UPTIME = 1e9  # seconds; larger times are of the wall clock


def hostname() -> str:
    """Return this machine's name."""
    return socket.gethostname()


@cache
def boot() -> str | None:
    """Return what names the time from this machine's start to its next one; None where the system has no such name."""
    name = Path("/proc/sys/kernel/random/boot_id")
    return name.read_text().strip() if name.exists() else None


def created(pid: int) -> float | None:
    """Return when a process began, in seconds by a clock that nobody sets; None where there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            state, *rest = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else int(rest[18]) / os.sysconf("SC_CLK_TCK")  # since the machine began
    return _created_by_wall_clock(pid)


def age(pid: int) -> float:
    """Return how many seconds ago a process began; 0 where there is none."""
    since = created(pid)
    if since is None:
        return 0.0
    now = time.time() if since > _LONGEST_UPTIME else time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(now - since, 0.0)


def _created_by_wall_clock(pid: int) -> float | None:
    """Return it in seconds since 1970: where there is no /proc, and as 0.1.0 noted it everywhere."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_launched() -> bool:
    """Whether torchrun or accelerate began this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or any(name.startswith("ACCELERATE_") for name in os.environ)


def launch() -> str | None:
    """Return a name that the ranks of one torchrun or accelerate share; None where that is not all on this machine."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" not in environment or environment.get("GROUP_WORLD_SIZE") != "1":
        return None
    launcher = f"{boot()} {os.getppid()} {created(os.getppid())}"
    return hashlib.sha256(launcher.encode()).hexdigest()[:8]


def lives(pid: int | None, since: float | None, began_in: str | None = None) -> bool:
    """Whether the very process that began then lives, and not a later one of the same number.

    Args:
        pid: its number.
        since: what `created` gave for it; None if that is not known.
        began_in: what `boot` gave; None if that is not known.
    """
    if pid is None or began_in not in (None, boot()):
        return False
    found = _created_by_wall_clock(pid) if since is not None and since > _LONGEST_UPTIME else created(pid)
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
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


@contextmanager
def holding(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a file's lock, which ends with the process whatever happens to it.

    Args:
        path: the file.
        what: is so where another process holds it.
        wait: seconds for which one that is about to end is waited for.

    Raises:
        JobError: another process holds it.
    """
    import fcntl

    paths.make(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() >= end:
                os.close(descriptor)
                raise JobError(f"{what} already: another process holds '{path}'.") from None
        time.sleep(0.1)
    try:
        yield
    finally:
        os.close(descriptor)
