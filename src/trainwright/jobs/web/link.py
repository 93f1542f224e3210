"""The link that opens the page: its token, and the file that a browser is opened through, for this user alone."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from urllib.parse import quote

from trainwright.errors import JobError
from trainwright.jobs import paths

TOKEN = "TRAINWRIGHT_TOKEN"
EVERYWHERE = ("0.0.0.0", "::")
_SHORTEST = 16


def new_token() -> str:
    """Return the token of a server: what `TRAINWRIGHT_TOKEN` says, else a new one.

    Raises:
        JobError: that one could be guessed, or stands in no address.
    """
    given = os.environ.get(TOKEN, "")
    if given and (len(given) < _SHORTEST or not given.isascii() or not given.isprintable() or " " in given):
        raise JobError(
            f"{TOKEN} holds {len(given)} characters; at least {_SHORTEST} letters, digits and signs are expected, such "
            f"as {secrets.token_urlsafe(16)}. Without it every start has a token of its own."
        )
    return given or secrets.token_urlsafe(32)


def address(host: str, port: int, token: str) -> str:
    """Return the page's address with its token; of a server that listens everywhere, by this machine's name."""
    name = socket.gethostname() if host in EVERYWHERE else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/?token={quote(token, safe='')}"


def file_of(port: int) -> Path:
    """Return the file that holds the link of the server on a port."""
    return paths.home() / f"ui-{port}.html"


@contextmanager
def kept(link: str, port: int) -> Iterator[Path | None]:
    """Keep a link in its file, which only this user can read and a browser follows, while the body runs.

    None where the file cannot be written, which is said: the printed link is enough.
    """
    file = file_of(port)
    try:
        _write(file, link)
    except OSError as error:
        print(f"Note: the link could not be kept in '{file}' ({error.strerror}).", file=sys.stderr, flush=True)
        yield None
        return
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _write(file: Path, link: str) -> None:
    paths.make(file.parent)
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    safe = escape(link)
    with open(descriptor, "w", encoding="utf-8") as opened:
        opened.write(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Jobs</title>'
            f'<meta http-equiv="refresh" content="0;url={safe}"><a href="{safe}">Jobs</a>\n'
        )


def open_browser(file: Path) -> None:
    """Open a file in the browser of the desktop, where there is one and somebody sits before it.

    It is given the file, not the link: a command's words stand in the process list for every user of the machine.
    """
    desktop = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if desktop and sys.stdout.isatty():
        threading.Thread(target=webbrowser.open, args=(file.as_uri(),), daemon=True).start()
