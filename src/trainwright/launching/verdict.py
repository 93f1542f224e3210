"""The word that a process leaves when it fails: of what, and whether beginning anew can help.

It lies in the file that torchrun names (`TORCHELASTIC_ERROR_FILE`), in torchrun's own form, with fields of ours.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainwright.errors import JobError, RankError, SaveError, TrainwrightError, UnsavableError
from trainwright.parallel.peers import is_of_an_exchange

MISTAKE, OUTSIDE, RAISED = "mistake", "outside", "raised"
_OURS = "trainwright"  # the field of the file
_PROGRAMMED = (ImportError, SyntaxError, NameError)  # of the same program again
_FROM_OUTSIDE = (RankError, SaveError, JobError, ConnectionError, TimeoutError)
_START = 60.0  # seconds in which a process without steps that are known fails of its start
_BEGAN = time.monotonic()

listened = False
"""Whether a launcher reads this process's word, and says it for all of them."""


@dataclass(frozen=True)
class Verdict:
    """How a process failed.

    Attributes:
        kind: `MISTAKE` where it says what must be changed first, `OUTSIDE` where another process, a disk or the network
            is the cause, `RAISED` where nobody knows: then it is anew what it was, or it is not.
        error: the class of the exception.
        text: what it says.
        step: after which training step; None where no `Trainer` was training.
        at: the file and line of the user's, empty where that is not known.
        trace: where it came from, as Python prints it; empty where the text says all.
        seconds: since the process began.
    """

    kind: str
    error: str
    text: str
    step: int | None = None
    at: str = ""
    trace: str = ""
    seconds: float = 0.0

    def is_again(self, before: Verdict | None) -> bool:
        """Whether it is the failure of the beginning before, after the same step, or before any that is known; numbers
        in the text may differ."""
        if before is None or self.kind == OUTSIDE or (self.error, self.step) != (before.error, before.step):
            return False
        if self.step is None and max(self.seconds, before.seconds) > _START:  # it may have come far in between
            return False
        return re.sub(r"\d+", "0", self.text) == re.sub(r"\d+", "0", before.text)


def of(error: BaseException, script: str | None = None) -> Verdict:
    """Return what to say of an exception that nobody caught.

    Args:
        error: the exception.
        script: the user's, whose innermost line is named.
    """
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == script]
    at = f"{script}:{lines[-1]}" if lines else ""
    trace = "" if isinstance(error, TrainwrightError) else trace_of(error, script)
    return Verdict(
        _kind(error), type(error).__name__, str(error), getattr(error, "after_step", None), at, trace,
        time.monotonic() - _BEGAN,
    )  # fmt: skip


def _kind(error: BaseException) -> str:
    if isinstance(error, _FROM_OUTSIDE) and not isinstance(error, UnsavableError):
        return OUTSIDE
    if "torch.distributed" in sys.modules and is_of_an_exchange(error):
        return OUTSIDE
    return MISTAKE if isinstance(error, (TrainwrightError, *_PROGRAMMED)) else RAISED


def trace_of(error: BaseException, script: str | None) -> str:
    """Return an exception with where it came from, as Python prints it, from the script on."""
    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename != script:
        first = first.tb_next
    return "".join(traceback.format_exception(type(error), error, first or error.__traceback__))


def leave(verdict: Verdict) -> bool:
    """Leave it for the launcher; return whether it says it in this process's place."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not listened or not path:
        return False
    extra = {"py_callstack": verdict.trace or verdict.text, "timestamp": str(int(time.time()))}
    word = {"message": f"{verdict.error}: {verdict.text}", "extraInfo": extra, _OURS: asdict(verdict)}
    try:
        Path(path).write_text(json.dumps({"message": word}), encoding="utf-8")
    except OSError:
        return False
    return verdict.kind == MISTAKE


def left() -> bool:
    """Whether this process has left its word."""
    return Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).is_file()


def read(word: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict in a file's content; None where the process, or another library, left none of ours."""
    message = word.get("message")
    found = message.get(_OURS) if isinstance(message, dict) else None
    return None if found is None else Verdict(**found)
