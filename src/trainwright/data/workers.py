"""The processes that fetch rows for torch's DataLoader."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable


def worker_init(given: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """Return the function that a worker calls first, around the user's own."""
    return functools.partial(_begin, given)


def _begin(given: Callable[[int], None] | None, worker: int) -> None:
    """Leave signals to the main process, which finishes its step and saves; workers end with it."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if given is not None:
        given(worker)
