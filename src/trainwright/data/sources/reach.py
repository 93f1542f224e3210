"""Whether the hub can be reached, found out in seconds: its library tries again for half a minute for every file."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

logger = logging.getLogger("trainwright")
_PATIENCE = 5.0  # seconds
_switched_off = False


def ask_at_once(name: str | None) -> str:
    """Let the hub's libraries answer from what was downloaded before, where a name is none of this machine and the hub
    cannot be reached; once it can, they ask it again. Where the user has forbidden it to be asked, or a proxy stands
    between, nothing is done.

    Returns:
        Why the name cannot be had, unless it was downloaded before; empty where it may be.
    """
    global _switched_off
    from urllib.request import getproxies  # half of the standard library; a job's first lines go without

    from huggingface_hub import constants

    forbidden = constants.HF_HUB_OFFLINE and not _switched_off
    if not name or "://" in name or Path(name).expanduser().exists() or forbidden or set(getproxies()) - {"no"}:
        return ""
    address = urlsplit(constants.ENDPOINT)
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    reason = _failure(host, port)
    constants.HF_HUB_OFFLINE = bool(reason)
    if reason and not _switched_off:
        logger.warning("%s cannot be reached (%s), so only what was downloaded before is found.", host, reason)
    _switched_off = bool(reason)
    if not reason:
        return ""
    return f"it is not on this machine, and {host} cannot be reached ({reason})."


def ask_again() -> None:
    """Let the hub's libraries ask it again where `ask_at_once` has kept them from it: days may have passed since."""
    global _switched_off
    if _switched_off:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = _switched_off = False


def _failure(host: str, port: int) -> str:
    """Return why there is no connection; looking a name up may take longer than a socket's patience, so a thread does
    it."""
    found: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), _PATIENCE).close()
            found.append("")
        except OSError as error:
            found.append(error.strerror or str(error))

    looking = threading.Thread(target=connect, daemon=True)
    looking.start()
    looking.join(_PATIENCE)
    return found[0] if found else f"no answer in {_PATIENCE:.0f} s"
