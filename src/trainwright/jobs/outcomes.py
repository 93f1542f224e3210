"""How a job ended, told from how its process did."""

from __future__ import annotations

import json
import signal
import traceback
from contextlib import suppress
from pathlib import Path

from trainwright.errors import Interrupted
from trainwright.jobs import paths, processes
from trainwright.jobs.status import COMPLETE, FAILED, INTERRUPTED, STOPPED

Outcome = tuple[str, str | None, str | None]
"""A status, a message, and where an error came from."""


class JobStopped(BaseException):
    """The job was asked to stop; no `except Exception` of a script holds it up."""


def conclusion(own: Outcome, failed: Outcome | None, was_asked: bool) -> Outcome:
    """Return how a job ended: one that was asked to stop is stopped, and a failure that the script caught stays one.

    Args:
        own: how its process ended.
        failed: how a function of it failed.
        was_asked: to stop.
    """
    if was_asked:
        more = f" It ended with: {own[1]}" if own[0] != STOPPED and own[1] else ""
        return STOPPED, f"Stopped on request.{more}", own[2]
    return failed if own[0] == COMPLETE and failed else own


def leave(folder: Path, ended: Outcome) -> None:
    """Note how a rank ended, for the process that is its job and may not look; a good end takes back a bad one."""
    with suppress(OSError):  # where nothing can be written the job's journal says so
        if ended[0] in (COMPLETE, STOPPED):
            (folder / paths.RANK_END).unlink(missing_ok=True)
        else:
            (folder / paths.RANK_END).write_text(json.dumps(ended), encoding="utf-8")


def left(folder: Path) -> Outcome | None:
    """Return how a rank of a job ended badly, if it did."""
    try:
        status, message, text = json.loads((folder / paths.RANK_END).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return status, message, text


def outcome(error: BaseException, was_asked: bool, reason: str | None) -> Outcome:
    """Return how a job ended that an exception ended.

    Args:
        error: the exception.
        was_asked: to stop, so that a signal is no interruption.
        reason: why the process leaves with an exit code, where something knows it.
    """
    if isinstance(error.__cause__, Interrupted):  # a handler of the user's leaves with a code of its own
        error = error.__cause__
    code = error.code if isinstance(error, SystemExit) else None
    number = code - 128 if isinstance(code, int) and 128 < code < 160 else None
    number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else number
    if isinstance(error, JobStopped) or (was_asked and number is not None):
        return STOPPED, "Stopped on request.", None
    if number is not None:
        told = str(error) if isinstance(error, Interrupted) else f"Interrupted by {processes.signal_name(number)}."
        return INTERRUPTED, told, None
    if isinstance(error, SystemExit) and (code is None or (isinstance(code, int) and code & 0xFF == 0)):
        return COMPLETE, None, None
    if isinstance(error, SystemExit):
        told = code if isinstance(code, str) else f"The script left with exit code {code}."
        return FAILED, reason or told, None
    text = "".join(traceback.format_exception(error))
    return FAILED, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, text
