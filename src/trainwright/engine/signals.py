"""Signals that ask a run to stop: the first one is noted, the second one leaves at once."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from trainwright.errors import Interrupted

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


class EvaluationInterrupted(BaseException):
    """A signal came in the middle of an evaluation; no `except Exception` of the user's shall catch this."""


class Signals:
    """Listens while it is entered; `received` is the number of the signal that came, or None."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._note = note
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            self._note("train() runs outside the main thread, so signals end it without a save.")
            return self
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by code that is not python
                self._before[number] = signal.signal(number, self._noted)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _noted(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if self.received is not None:
            self.__exit__()
            os.kill(os.getpid(), number)
            return
        self.received = number
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, frame)


def exception_for(number: int, message: str) -> BaseException:
    """Return what `train` raises after it has saved: KeyboardInterrupt at a prompt, else an exit code of 128 + n."""
    at_prompt = hasattr(sys, "ps1") or sys.flags.interactive or hasattr(builtins, "__IPYTHON__")
    if number == signal.SIGINT and at_prompt:
        return KeyboardInterrupt(message)
    return Interrupted(number, message)
