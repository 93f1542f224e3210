"""The time of a job: the wall clock's when the job began, and from then on by a clock that nobody sets.

So what a process tells of its job lies in order, and a duration is what has passed, when the machine's clock is set
meanwhile.
"""

from __future__ import annotations

import time

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # both go on while the machine sleeps


def _offset() -> float:
    return time.time() - time.clock_gettime(_STEADY)


_began = _offset()


def begin() -> None:
    """Take the wall clock's time as it is now, for a job that begins."""
    global _began
    _began = _offset()


def now() -> float:
    """Return the time, in seconds since 1970."""
    return _began + time.clock_gettime(_STEADY)
