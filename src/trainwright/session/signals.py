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

from trainwright.errors import STOP_SIGNALS, Interrupted, is_foreign, leave_by_exception

_LEAVE = (signal.default_int_handler, leave_by_exception)  # handlers that only end the process; it is ended by the run
TIME_IS_UP = signal.SIGALRM
"""What a run receives when its `max_train_time` is over; no process needs to send it."""
_USERS_OWN = {"SIGUSR1", "SIGUSR2"}  # for what a program wants: who has a handler for them need not mean to stop
_AGAIN = 2.0  # seconds until waiting that goes on after a signal is broken off again
_TRIES = 3  # times that it is, before what is done is saved meanwhile
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
        self._save: Callable[[], None] | None = None
        self._broken_off = 0
        self._insists = False
        self._over = threading.Event()
        self._insisting = threading.Thread(target=self._insist, daemon=True)
        self._replaced: set[int] = set()
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
            if is_foreign(number):
                name = signal.Signals(number).name
                self._note(f"{name} has a handler of code that is not Python, so it does not save and stop this run.")
            elif signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._noted)
        if self._alarm is not None and signal.getsignal(TIME_IS_UP) == signal.SIG_DFL and not is_foreign(TIME_IS_UP):
            self._before[TIME_IS_UP] = signal.signal(TIME_IS_UP, self._noted)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._insisting.is_alive():
            self._insisting.join()
        for number, handler in self._before.items():
            if self._is_ours(number):
                signal.signal(number, handler)

    def check(self) -> None:
        """Say, once, which handlers of ours were replaced: at those signals nothing is saved any more."""
        for number in self._before:
            if number != TIME_IS_UP and number not in self._replaced and not self._is_ours(number):
                self._replaced.add(number)
                name = signal.Signals(number).name
                self._note(f"{name} got another handler during the run, so it does not save and stop this run.")

    @contextmanager
    def waiting(self, save: Callable[[], None] | None = None) -> Iterator[None]:
        """Let a signal break off the body, which waits for something that may never come.

        Code that catches everything, such as a bare `except` around a read, may swallow that; it is broken off again
        and again, and after some seconds `save` is called from there, if given.

        Raises:
            StopWaiting: a signal came, before or meanwhile.
        """
        try:
            self.begin_waiting(save)
            yield
        finally:
            self.end_waiting()

    def begin_waiting(self, save: Callable[[], None] | None = None) -> None:
        """Do as `waiting` until `end_waiting`, which follows whatever happens, this raising too; for where every step
        waits."""
        self._save, self._broken_off = save, 0
        self._waiting = True
        if self.received is not None:
            raise StopWaiting

    def end_waiting(self) -> None:
        """Let signals be noted alone."""
        self._waiting = False

    def _time_is_up(self) -> None:
        """Note it, in a thread of its own, and break off what the main thread waits for.

        The signal for that is sent only while its handler is ours: code of the user's may time itself by it.
        """
        if self.received is None:
            self.received = TIME_IS_UP
        if self._waiting and self._is_ours(TIME_IS_UP):
            signal.pthread_kill(threading.main_thread().ident or 0, TIME_IS_UP)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        if self._insists:  # nobody has sent it
            self._insists = False
        elif os.getpid() != self._process or self._over.is_set():  # a child of the user's code; put back by such code
            signal.signal(number, self._before[number])
            os.kill(os.getpid(), number)
            return
        elif number == signal.SIGINT and self._pressed_again():
            self.at_once = True
            self.__exit__()
            os.kill(os.getpid(), number)
            return
        elif self._stops(number, frame):
            self.received = self.received or number
        if self._waiting and self.received is not None:
            self._break_off()

    def _stops(self, number: int, frame: FrameType | None) -> bool:
        """Call the handler of the user's own, if there is one; return whether the signal asks the run to stop.

        SIGUSR1 and SIGUSR2 are the user's where there is one: they ask for it if the handler raises, as to exit.
        """
        handler = self._before[number]
        is_own = callable(handler) and handler not in _LEAVE
        raised = self._told(handler, number, frame) if is_own else None
        self.raised = self.raised or raised
        nested = getattr(handler, "__func__", None) is Signals._noted  # a training inside a training
        return not is_own or nested or raised is not None or signal.Signals(number).name not in _USERS_OWN

    def _break_off(self) -> None:
        """Raise out of what is waited for.

        Raises:
            StopWaiting: always.
        """
        self._broken_off += 1
        if self._broken_off == _TRIES and self._save is not None:
            self._waiting = False
            try:
                self._save()
            finally:
                self._waiting = True
        if not self._insisting.ident:
            self._insisting.start()
        raise StopWaiting

    def _insist(self) -> None:
        """Send the signal again as long as the main thread waits; in a thread of its own."""
        while not self._over.wait(_AGAIN):
            if self._waiting and self.received is not None and self._is_ours(self.received):
                self._insists = True
                signal.pthread_kill(threading.main_thread().ident or 0, self.received)

    def _is_ours(self, number: int) -> bool:
        return bool(signal.getsignal(number) == self._noted)

    def _pressed_again(self) -> bool:
        """Whether Ctrl-C was pressed before; the same press may come several times."""
        before, now = self._pressed, time.monotonic()
        if before < 0:
            self._pressed = now
        return 0 <= before < now - _ONE_PRESS

    def _told(self, handler: Any, number: int, frame: FrameType | None) -> BaseException | None:
        """Call a handler of the user's own; return what it raises, which must not tear a step apart."""
        try:
            handler(number, frame)
        except BaseException as error:
            return error
        return None


def exception_for(number: int, message: str) -> BaseException:
    """Return what `train` raises after it has saved: KeyboardInterrupt at a prompt, else an exit code of 128 + n."""
    at_prompt = hasattr(sys, "ps1") or sys.flags.interactive or hasattr(builtins, "__IPYTHON__")
    if number == signal.SIGINT and at_prompt:
        return KeyboardInterrupt(message)
    return Interrupted(number, message)
