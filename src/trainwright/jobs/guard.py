"""What may ask the page's server for something: only this machine's own page, or one that brings the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "trainwright_token"
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
_LONGEST_BODY = 65_536
App = Callable[..., Awaitable[None]]


@dataclass
class Guard:
    """Middleware that lets only what is allowed through, and adds the headers of every answer.

    Attributes:
        app: what answers.
        host: that the server listens on.
        token: asked for, where there is one.
    """

    app: App
    host: str
    token: str | None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self.refusal(scope, headers)
        if refused is not None:
            await refused(scope, receive, _with_headers(send))
            return
        await self.app(scope, receive, _with_headers(send))

    def refusal(self, scope: dict[str, Any], headers: Headers) -> Response | None:
        """Return what a request that is not allowed is answered with."""
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if name not in (*LOOPBACK, self.host) and not (self.token and self.host in ("0.0.0.0", "::")):  # noqa: S104
            return _sentence(421, f"This server does not answer to the name '{name[:60]}'.")
        if scope["method"] not in _READING:
            if scope["method"] != "POST":
                return _sentence(405, "Only GET and POST are there.")
            origin = urlsplit(headers.get("origin", ""))
            if origin.netloc != headers.get("host") or origin.scheme not in ("http", "https"):
                return _sentence(403, "Changes are taken from this page alone.")
            if headers.get("content-type", "").split(";")[0] != "application/json":
                return _sentence(415, "JSON is expected.")
            length = headers.get("content-length", "")
            if not length.isdigit() or int(length) > _LONGEST_BODY:
                return _sentence(413, f"At most {_LONGEST_BODY} bytes are taken.")
        return self._without_token(scope, headers)

    def _without_token(self, scope: dict[str, Any], headers: Headers) -> Response | None:
        if self.token is None:
            return None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if given and scope["method"] == "GET" and self._is_token(given):
            answer = RedirectResponse("/", status_code=303)  # the token leaves the address
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", path="/")
            return answer
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if self._is_token(bearer if kind.lower() == "bearer" else _cookie(headers)):
            return None
        return _sentence(401, "The token is missing or wrong: open the address that `trainwright ui` printed.")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _sentence(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status)


def _with_headers(send: Any) -> Any:
    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending
