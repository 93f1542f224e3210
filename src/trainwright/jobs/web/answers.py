"""How requests are answered: in JSON, by a status and a sentence where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from trainwright.errors import JobError
from trainwright.jobs import paths, values
from trainwright.jobs.store import curves
from trainwright.jobs.store.database import is_away
from trainwright.jobs.web import feed
from trainwright.jobs.written import spelled

_DEEPEST = 20  # that values of a job may be nested


class Malformed(JobError):
    """A request says something that no page would say."""


def reading(answer: Callable[[Request], Any], wrong: int = 404) -> Callable[[Request], Any]:
    """Return what answers a request that changes nothing."""

    def respond(request: Request) -> Response:
        return answered(partial(answer, request), wrong)

    return respond


def changing(answer: Callable[[Request, Any], Any]) -> Callable[[Request], Any]:
    """Return what answers a request that changes something, given what its body says."""

    async def respond(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}")
        except (ValueError, RecursionError):
            return error_of(400, "JSON is expected.")
        return await anyio.to_thread.run_sync(answered, partial(answer, request, body), 409)

    return respond


def answered(answer: Callable[[], Any], wrong: int) -> Response:
    """Return an answer, or its error in one sentence, with the status `wrong` where nothing better is known."""
    try:
        found = answer()
        if found is None:
            return Response(status_code=304)
        if isinstance(found, Response):
            return found
        tag = {"etag": f'"{found["version"]}"'} if "version" in found else {}
        return Response(as_json(found), media_type="application/json", headers=tag)
    except JobError as error:
        return error_of(400 if isinstance(error, Malformed) else wrong, str(error))
    except Exception as error:
        if not is_away(error):
            raise
        return error_of(503, feed.AWAY)


def error_of(status: int, text: str) -> Response:
    """Return a refusal."""
    return Response(as_json({"error": text}), status, media_type="application/json")


def name_of(text: str) -> str:
    """Return what may be the name of a job, or its beginning."""
    if not paths.is_name(text):
        raise Malformed(f"{text[:40]!r} is no name of a job.")
    return text


def is_argument(value: Any) -> bool:
    """Whether a command line can hold a value: a plain one, or JSON."""
    text = spelled(value)
    return "\0" not in text and text == text.encode(errors="replace").decode()


def number(text: str | None, default: int) -> int:
    """Return a whole number of an address."""
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise Malformed(f"{text[:40]!r} is no whole number.") from None


def step(text: str | None, default: int) -> int:
    """Return a step that the database holds."""
    return min(max(number(text, default), -curves.EVER), curves.EVER)


def as_json(value: Any) -> str:
    """Return JSON in ASCII, which also holds what is no text: an argument of a command that was no UTF-8."""
    return json.dumps(values.for_json(value, _DEEPEST))
