"""What an open page is told: at first all that it shows, then what of it has changed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from trainwright.errors import JobError
from trainwright.jobs.store.database import is_away

AWAY = "The job database cannot be reached just now."
_LOOK_SECONDS = 0.5
_SHARE = 50  # at most this part of the time is spent on looks
_ALIVE_SECONDS = 15.0


@dataclass(frozen=True)
class Seen:
    """What a page was shown.

    Attributes:
        version: the number of the last change of a job by then.
        found: `jobs`, and what else a list has.
    """

    version: int
    found: dict[str, Any]


class Feed:
    """The changes of one list."""

    def __init__(self) -> None:
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._rest: dict[str, Any] | None = None

    def news(self, jobs: Sequence[Mapping[str, Any]], **rest: Any) -> dict[str, Any]:
        """Return what is new since the last time: `jobs` that changed or came, `order` and the rest where it changed.

        The first time all is new, which is told as `first`; nothing where nothing changed.
        """
        rows = {str(job["id"]): job for job in jobs}
        rest["order"] = [*rows]
        first = self._rest is None
        before = self._rest or {}
        found: dict[str, Any] = {name: value for name, value in rest.items() if first or before.get(name) != value}
        changed = [job for name, job in rows.items() if self._rows.get(name) != job]
        self._rows, self._rest = rows, rest
        return {**found, **({"jobs": changed} if changed or first else {}), **({"first": True} if first else {})}


async def changes(
    is_over: Callable[[], Awaitable[bool]], look: Callable[[Seen | None], Seen]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the news of what `look` finds until the page is closed; nothing now and then, where there are none.

    The more a look costs the rarer it is. A database that is away is told as `error`, which is empty when it is back.

    Args:
        is_over: whether the page is closed.
        look: returns what the page shows, given what it was shown before.
    """
    feed, seen, said, wrong = Feed(), None, time.monotonic(), ""
    while not await is_over():
        began = time.monotonic()
        try:
            seen = await anyio.to_thread.run_sync(look, seen)
            news, now_wrong = feed.news(**seen.found), ""
        except Exception as error:
            if not (is_away(error) or isinstance(error, JobError)):  # such as a query that is none
                raise
            news, now_wrong = {}, str(error) if isinstance(error, JobError) else AWAY
        if now_wrong != wrong:
            news, wrong = {**news, "error": now_wrong}, now_wrong
        now = time.monotonic()
        if news or now - said > _ALIVE_SECONDS:
            said = now
            yield news
        await anyio.sleep(min(max(_LOOK_SECONDS, _SHARE * (now - began)), _ALIVE_SECONDS))
