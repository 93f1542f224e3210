"""The processes of a run, as they know each other: which of them are gone."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil

_OF_GLOO = ("gloo", "pair closure")  # which it says of connections that it closes after a timeout
_SAME = 1.0  # seconds between two readings of when a process began


@dataclass(frozen=True)
class Peer:
    """A process of a run.

    Attributes:
        rank: its number in the run.
        host: the name of its machine.
        pid: its number there.
        began: when, in seconds since 1970.
        output: the file of what it prints, where that is one.
    """

    rank: int
    host: str
    pid: int
    began: float
    output: str | None = None

    def describe(self) -> str:
        """Return who it is, in words."""
        return f"Rank {self.rank} (process {self.pid} on {self.host})"

    def is_gone(self) -> bool:
        """Whether it has ended; of another machine's nobody knows."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            is_another = abs(process.create_time() - self.began) > _SAME  # with the same number
            return bool(is_another or process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def is_of_an_exchange(error: BaseException) -> bool:
    """Whether an error is that of an exchange between processes: gloo's have no class of their own."""
    from torch.distributed import DistError

    is_gloos = isinstance(error, RuntimeError) and any(word in str(error) for word in _OF_GLOO)
    return isinstance(error, DistError) or is_gloos


def this_process(rank: int) -> Peer:
    """Return this process."""
    return Peer(rank, socket.gethostname(), os.getpid(), psutil.Process().create_time(), _output())


def _output() -> str | None:
    """Return the file of what this process says of errors, on Linux."""
    try:
        path = os.readlink("/proc/self/fd/2")
    except OSError:
        return None
    return path if os.path.isfile(path) else None
