"""What may ask the page's server for something: who brings its token, and for changes only its own page."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, Response

from trainwright.jobs.web.link import EVERYWHERE

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_READING = ("GET", "HEAD")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LONGEST_PATH = 1024
_LONGEST_BODY = 65_536
_BODY_SECONDS = 10.0
_WRONG_SECONDS = 0.5  # that a wrong token keeps its turn, and so `_TURNS` / this are the tries of a second
_TURNS = 4
_MOST_WAITING = 64
_NO_TOKEN = "The token is missing or wrong: open the link that `trainwright ui` printed last."
_HEAD = '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
_ENTER = f'{_HEAD}<title>Jobs</title><meta http-equiv="refresh" content="0;url={{root}}">'
App = Callable[..., Awaitable[None]]


@dataclass
class Guard:
    """Middleware that lets only what is allowed through, and adds the headers of every answer.

    Attributes:
        app: what answers.
        host: that the server listens on.
        token: that opens the page.
        names: by which others reach it, as a proxy's.
        session: what a browser that brought the token is known by; unlike the token it ends with this process, for a
            browser sends its cookies to whatever listens on any port of the machine.
    """

    app: App
    host: str
    token: str
    names: Collection[str] = ()
    session: str = field(default_factory=partial(secrets.token_urlsafe, 32))
    _turns: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, _TURNS))
    _waiting: int = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        answer = self._misdirected(asked) or await self._without_token(asked) or self._no_change(asked)
        if answer is None and scope["method"] == "POST":
            body = await _body(receive)
            if isinstance(body, Response):
                answer = body
            else:
                receive = _again(body, receive)
        sending = _Sending(send)
        try:
            await (answer or self.app)(scope, receive, sending)
        except asyncio.CancelledError:  # the server ends, and waits for what is under way no longer
            if sending.begun:
                await send({"type": "http.response.body", "body": b""})
            else:
                await _sentence(asked, 503, "The page's server has been ended.")(scope, receive, sending)

    def _misdirected(self, asked: HTTPConnection) -> Response | None:
        """Return what a request is answered with that is not for this server, or not to be understood."""
        hosts, path = asked.headers.getlist("host"), asked.scope["path"]
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or int(found[2] or 80) > 65_535:
            return _sentence(asked, 400, "One Host is expected, a name and a port.")
        if len(path) > _LONGEST_PATH or not path.isprintable():
            return _sentence(asked, 400, f"A path of at most {_LONGEST_PATH} printable letters is expected.")
        name = found[1].strip("[]").lower()
        if name not in (*LOOPBACK, self.host, *self.names) and self.host not in EVERYWHERE:
            text = f"This server does not answer to the name '{name[:60]}'; begun with --host-name it does."
            return _sentence(asked, 421, text)
        return None

    async def _without_token(self, asked: HTTPConnection) -> Response | None:
        """Return what a request without the token is answered with, and one that brings it in its address."""
        linked = _token_of_link(asked)
        if not _same(asked.cookies.get(self._cookie(asked), ""), self.session):
            given = linked or _bearer(asked)
            if not given:
                return _sentence(asked, 401, _NO_TOKEN)
            if self._waiting >= _MOST_WAITING:
                return _sentence(asked, 429, "Too many tokens are tried just now; try again in a minute.")
            if not await self._admits(given):
                return _sentence(asked, 401, _NO_TOKEN)
        return self._enter(asked) if linked else None

    def _enter(self, asked: HTTPConnection) -> Response:
        """Return a page that gives the cookie and goes on to the jobs, so that the token leaves the address.

        No redirect by status: the cookie would not come along to where a file or a terminal's page led. And to the root
        as the browser sees it, which may have a path before it that a proxy takes away.
        """
        answer = HTMLResponse(_ENTER.format(root="../" * (asked.scope["path"].count("/") - 1) or "./"))
        answer.set_cookie(self._cookie(asked), self.session, httponly=True, samesite="strict", path="/")
        return answer

    def _cookie(self, asked: HTTPConnection) -> str:
        """Return the cookie's name: several pages of a machine differ by their port alone, as the browser sees it.

        Those behind one proxy differ by the port that it reaches them at.
        """
        name, _, port = asked.headers["host"].rpartition(":")
        seen = port if name and port.isdecimal() else "80"
        is_proxy = (name or port).strip("[]").lower() in self.names
        return f"trainwright_{seen}_{asked.scope['server'][1]}" if is_proxy else f"trainwright_{seen}"

    def _no_change(self, asked: HTTPConnection) -> Response | None:
        """Return what a change is answered with that does not come from the page itself."""
        if asked.scope["method"] in _READING:
            return None
        if asked.scope["method"] != "POST":
            return _sentence(asked, 405, "Only GET and POST are there.")
        if not self._is_own(asked.headers.getlist("origin"), asked.headers["host"]):
            return _sentence(asked, 403, "Changes are taken from this page alone.")
        if asked.headers.get("content-type", "").split(";")[0] != "application/json":
            return _sentence(asked, 415, "JSON is expected.")
        return None

    def _is_own(self, origins: list[str], host: str) -> bool:
        """Whether a page's origin is this server, by the name that it is asked by or one that it was given."""
        if origins in ([f"{scheme}://{host}"] for scheme in ("http", "https")):
            return True
        try:
            parts = urlsplit(origins[0] if len(origins) == 1 else "")
            return parts.scheme in ("http", "https") and (parts.hostname or "") in self.names
        except ValueError:
            return False

    async def _admits(self, given: str) -> bool:
        """Whether a token is the right one; a wrong one keeps its turn for a while, so that few can be tried."""
        self._waiting += 1
        try:
            async with self._turns:
                right = _same(given, self.token)
                if not right:
                    await anyio.sleep(_WRONG_SECONDS)
                return right
        finally:
            self._waiting -= 1


def _token_of_link(asked: HTTPConnection) -> str:
    if asked.scope["method"] not in _READING:
        return ""
    query: bytes = asked.scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("token", [""])[0]


def _bearer(asked: HTTPConnection) -> str:
    kind, _, token = asked.headers.get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else ""


async def _body(receive: Any) -> bytes | Response:
    """Return a request's body, however it comes in, or what one is answered with that is too large or too slow."""
    body: bytes = b""
    with anyio.move_on_after(_BODY_SECONDS):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return _refused(400, "The request ended in its middle.")
            body += message.get("body", b"")
            if len(body) > _LONGEST_BODY:
                return _refused(413, f"At most {_LONGEST_BODY} bytes are taken.")
            if not message.get("more_body", False):
                return body
    return _refused(408, f"The whole request is expected within {_BODY_SECONDS:.0f} seconds.")


def _again(body: bytes, receive: Any) -> Any:
    """Return a `receive` that gives a body that was read already, and then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Any:
        return waiting.pop() if waiting else await receive()

    return receiving


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())


def _refused(status: int, text: str) -> Response:
    """Return a refusal after which nothing more of the connection is read."""
    return JSONResponse({"error": text}, status, {"connection": "close"})


def _sentence(asked: HTTPConnection, status: int, text: str) -> Response:
    """Return a refusal: a page for who opens an address, JSON for scripts."""
    if "text/html" not in asked.headers.get("accept", ""):
        return _refused(status, text)
    return HTMLResponse(f"{_HEAD}<title>Jobs</title><p>{escape(text)}", status, {"connection": "close"})


@dataclass
class _Sending:
    """Sends an answer with the headers of every one."""

    send: Any
    begun: bool = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of an answer."""
        if message["type"] == "http.response.start":
            self.begun = True
            given = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        await self.send(message)
