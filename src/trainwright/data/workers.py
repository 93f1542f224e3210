"""The processes that fetch rows for torch's DataLoader."""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

_LET_THREADS_FINISH = 0.02
_GRACE = 30  # seconds a worker goes on after a SIGTERM


def worker_init(given: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """Return the function that a worker calls first, around the user's own."""
    return functools.partial(_begin, given)


@contextmanager
def reading(loader: Any) -> Iterator[Iterator[Any]]:
    """Give the batches of a torch DataLoader; on leaving, however, its workers end, unless they are kept.

    A worker outlives the first SIGTERM, so one left to the end of the process would hold that up. And torch would raise
    the death of a worker wherever the main thread happens to be, in the middle of an update too; here it is raised
    where the worker's batch is waited for.
    """
    workers = getattr(loader, "num_workers", 0)
    if workers and torch.distributed.is_initialized():
        # A child forked while another thread enters the interpreter waits for ever (python 3.11 to 3.12); the threads
        # of the last exchange between ranks do so when they let go of its tensors.
        time.sleep(_LET_THREADS_FINISH)
    batches = iter(loader)
    before = _ignore_deaths() if workers else None
    try:
        yield batches
    finally:
        if not getattr(loader, "persistent_workers", False):
            _end(batches)
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _ignore_deaths() -> Any:
    """Let no death of a child process raise an error by itself; return the handler before, or None if that stays."""
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGCHLD)):
        return None
    return signal.signal(signal.SIGCHLD, lambda number, frame: None)


def end_workers(loader: Any) -> None:
    """End the workers that a loader keeps from pass to pass."""
    _end(getattr(loader, "_iterator", None))
    if hasattr(loader, "_iterator"):
        loader._iterator = None


def _end(batches: Any) -> None:
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()


def _begin(given: Callable[[int], None] | None, worker: int) -> None:
    """Leave signals to the main process, which finishes its step and saves; workers end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _go_on_for_a_while)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if given is not None:
        given(worker)


def _go_on_for_a_while(number: int, frame: FrameType | None) -> None:
    """The first SIGTERM is likely the whole group's; a second one, or no end of the main process, ends the worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_GRACE)
