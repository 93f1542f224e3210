"""Which journals of a home may have grown, for those who look again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_SHARE = 100  # a look at all journals takes at most this part of the time
_LEAST_SECONDS = 1.0  # between two of them
_SETTLED = 2.0  # seconds after which the time of a folder's last change is not that of the next one too


class Looks:
    """The looks of one process at a home's journals.

    To look at all costs a call for every job there ever was. Between two such looks the journals of running jobs and of
    folders that the database does not know are looked at.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._unknown: set[str] = set()
        self._changed: int | None = None
        self._next = 0.0

    def is_for_all(self) -> bool:
        """Whether it is time to look at all journals."""
        return time.monotonic() >= self._next

    def took(self, seconds: float) -> None:
        """Note how long a look at all took."""
        self._next = time.monotonic() + max(_SHARE * seconds, _LEAST_SECONDS)

    def unknown(self, folder: Path, known: Callable[[Iterable[str]], Iterable[str]]) -> set[str]:
        """Return the names in a folder that the database does not know.

        Args:
            folder: of all jobs.
            known: returns those of some names that the database knows.
        """
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return set()
        if changed != self._changed:
            self._unknown = {*os.listdir(folder)} - self._known
            self._changed = changed if time.time() - changed / 1e9 > _SETTLED else None
        if self._unknown:
            found = {*known(self._unknown)}
            self._known |= found
            self._unknown -= found
        return self._unknown
