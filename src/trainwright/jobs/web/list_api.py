"""What the page's list asks for: which jobs, what it can show of them, and what is done with several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from trainwright.errors import JobError
from trainwright.jobs.store import listing
from trainwright.jobs.store.store import Store
from trainwright.jobs.sweeps import table
from trainwright.jobs.web.answers import Malformed, name_of, number
from trainwright.jobs.worker import labels

_MOST_JOBS = 200  # on a page of the list, and that are changed at once
_LONGEST = 10_000  # characters of a note


def query(request: Request) -> listing.Query:
    """Return which jobs a list is to show, by the words of an address."""
    given = request.query_params
    limit, offset = number(given.get("limit"), 50), number(given.get("offset"), 0)
    return listing.Query(
        text=given.get("text", "").strip(), statuses=given.getlist("status"), experiment=given.get("experiment"),
        where=given.getlist("where"), sort=given.get("sort", "-created"), limit=min(max(limit, 1), _MOST_JOBS),
        offset=min(max(offset, 0), 2**31), show=given.getlist("show"), query=given.get("q", ""),
        group=given.get("group", ""),
    )  # fmt: skip


def choices(store: Store, _: Request) -> Any:
    """What a list can show: columns, parameters and metrics by name."""
    return store.read(listing.choices)


def change(store: Store, _: Request, body: Any) -> Any:
    """Do something with several jobs; return the names of those that it was done with, and why not with the others."""
    wanted = body.get("jobs") if isinstance(body, dict) else None
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted) or len(wanted) > _MOST_JOBS:
        raise Malformed(f"`jobs`, a list of at most {_MOST_JOBS} names, is expected.")
    what = body.get("do")
    text = body.get("text", "")
    if what not in labels.ACTIONS or not isinstance(text, str) or len(text) > _LONGEST:
        raise Malformed(f"`do` is one of {', '.join(labels.ACTIONS)}; `text` is of a tag or a note.")
    return _each(store, [name_of(one) for one in wanted], what, text)


def _each(store: Store, wanted: Sequence[str], what: str, text: str) -> dict[str, Any]:
    done, failed = [], {}
    for one in wanted:
        try:
            labels.do(store, store.find(one), what, text)
            done.append(one)
        except JobError as error:
            failed[one] = str(error)
    return {"done": done, "failed": failed}


def sweeps_of(store: Store, _: Request) -> Any:
    """The sweeps that there are."""
    return {"sweeps": table.names(store)}


def sweep(store: Store, request: Request) -> Any:
    """One sweep: what was tried, and what came of it."""
    return table.table(store, name_of(request.path_params["sweep"]))
