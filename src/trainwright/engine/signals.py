"""Signals that ask a run to stop: they are noted here, and the loop leaves where everything can be saved.

While a run trains, these signals are its own: nothing raises in the middle of a step. Only waiting is broken off.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from trainwright.data.workers import go_on_for_a_while
from trainwright.errors import STOP_SIGNALS, Interrupted, leave_by_exception

_LEAVE = (signal.default_int_handler, leave_by_exception)  # handlers that only end the process; it is ended by the run
TIME_IS_UP = signal.SIGALRM
"""What a run receives when its `max_train_time` is over; no process needs to send it."""
_ONE_PRESS = 1.0  # seconds in which several Ctrl-C are one: a group and a parent both pass it on


class StopWaiting(BaseException):
    """A signal came in the middle of waiting for data or of an evaluation; no `except Exception` shall catch this."""


class Signals:
    """Listens while it is entered.

    Attributes:
        received: the number of the first signal that came, or None.
        raised: what a handler of the user's own raised at it, which is raised again when everything is saved.
        at_once: whether Ctrl-C was pressed again, so that nothing is waited for.
        allowance: seconds after which the run stops as at a signal; the number received is then TIME_IS_UP.
    """

    def __init__(self, note: Callable[[str], None], allowance: float | None = None) -> None:
        self.received: int | None = None
        self.raised: BaseException | None = None
        self.at_once = False
        self._note = note
        self._before: dict[int, Any] = {}
        self._process = os.getpid()
        self._waiting = False
        self._pressed = -1.0
        self._alarm = None if allowance is None else threading.Timer(allowance, self._time_is_up)

    def __enter__(self) -> Signals:
        if self._alarm is not None:
            self._alarm.daemon = True
            self._alarm.start()
        if threading.current_thread() is not threading.main_thread():
            self._note("train() runs outside the main thread, so signals end it without a save.")
            return self
        for number in STOP_SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by code that is not python
                self._before[number] = signal.signal(number, self._noted)
        if self._alarm is not None and signal.getsignal(TIME_IS_UP) == signal.SIG_DFL:
            self._before[TIME_IS_UP] = signal.signal(TIME_IS_UP, self._noted)
        return self

    def __exit__(self, *error: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal break off the body, which waits for something that may never come.

        Raises:
            StopWaiting: a signal came, before or meanwhile.
        """
        self._waiting = True
        try:
            if self.received is not None:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def _time_is_up(self) -> None:
        """Note it, in a thread of its own, and break off what the main thread waits for.

        The signal for that is sent only while its handler is ours: code of the user's may time itself by it.
        """
        if self.received is None:
            self.received = TIME_IS_UP
        if self._waiting and signal.getsignal(TIME_IS_UP) == self._noted:
            signal.pthread_kill(threading.main_thread().ident or 0, TIME_IS_UP)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child that was forked while we listened
            go_on_for_a_while(number, frame)
            return
        if number == signal.SIGINT and self._pressed_again():
            self.at_once = True
            self.__exit__()
            os.kill(os.getpid(), number)
            return
        if self.received is None:
            self.received = number
        self._tell(self._before[number], number, frame)
        if self._waiting:
            raise StopWaiting

    def _pressed_again(self) -> bool:
        """Whether Ctrl-C was pressed before; the same press may come several times."""
        before, now = self._pressed, time.monotonic()
        if before < 0:
            self._pressed = now
        return 0 <= before < now - _ONE_PRESS

    def _tell(self, handler: Any, number: int, frame: FrameType | None) -> None:
        """Call a handler of the user's own; what it raises must not tear a step apart."""
        if not callable(handler) or handler in _LEAVE:
            return
        try:
            handler(number, frame)
        except BaseException as error:
            self.raised = self.raised or error


def exception_for(number: int, message: str) -> BaseException:
    """Return what `train` raises after it has saved: KeyboardInterrupt at a prompt, else an exit code of 128 + n."""
    at_prompt = hasattr(sys, "ps1") or sys.flags.interactive or hasattr(builtins, "__IPYTHON__")
    if number == signal.SIGINT and at_prompt:
        return KeyboardInterrupt(message)
    return Interrupted(number, message)
