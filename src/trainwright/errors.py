"""Every error a user can cause is one of these: what was wrong, what was expected, what to do."""

from __future__ import annotations

import ctypes
import difflib
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import FrozenInstanceError, is_dataclass
from functools import wraps
from typing import Any, ClassVar, NoReturn, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class TrainwrightError(Exception):
    """Base of the errors below; the command line prints them without a traceback and exits 2."""


class ConfigError(TrainwrightError, ValueError):
    """An argument, a configuration file or a combination of arguments cannot work."""


class DataError(TrainwrightError, ValueError):
    """A dataset, a row, a column or a collator cannot work; the message names which."""


class CheckpointError(TrainwrightError, RuntimeError, ValueError):
    """A checkpoint cannot be written, found, read or used for this run."""


class SaveError(CheckpointError):
    """A checkpoint could not be written."""


class UnsavableError(SaveError):
    """The state of a run holds a value that no checkpoint can keep; the message names it."""


class DivergenceError(TrainwrightError, RuntimeError):
    """Training got no finite loss and gradient for so long that it was stopped."""


def as_raised(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function through which exceptions of the user's code leave: those that are frozen dataclasses, too.

    contextlib notes the traceback in an exception that passes a context; where that cannot be, a FrozenInstanceError
    takes its place.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except FrozenInstanceError as error:
            raise_as_it_was(error)

    return call


def raise_as_it_was(error: FrozenInstanceError) -> NoReturn:
    """Raise the exception in whose place contextlib put this one, or this one."""
    raise (error.__context__ if is_dataclass(error.__context__) else error) from None


class Interrupted(SystemExit):
    """A signal asked the run to stop; it has saved its state and leaves with exit code 128 + the signal's number.

    Attributes:
        newest: of this process, for what ends when Python does and sees no exception.
    """

    newest: ClassVar[Interrupted | None] = None

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        Interrupted.newest = self
        self.number = number
        self.message = message

    def __str__(self) -> str:
        return self.message


STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals that ask a process to end: of systems, schedulers, terminals that close, limits of time."""


def is_foreign(number: int) -> bool:
    """Whether code that is not Python has set a signal's handler, as `faulthandler.register` does.

    Python takes such a signal for one with the default effect; the system knows better. Its `struct sigaction` begins
    with the handler's address, which is 0 for the default, on Linux and macOS.
    """
    if signal.getsignal(number) != signal.SIG_DFL:
        return signal.getsignal(number) is None
    kept = ctypes.create_string_buffer(256)  # more than any system's struct
    ctypes.CDLL(None).sigaction(number, None, kept)
    return bool(ctypes.c_void_p.from_buffer(kept).value)


def leave_by_exception(number: int, frame: Any) -> NoReturn:
    """Handle a signal where there is nothing to save: leave as at once, but by an exception, so that it can be told.

    Raises:
        SystemExit: with exit code 128 + the signal's number.
    """
    raise SystemExit(128 + number) from Interrupted(number, f"Interrupted by {signal.Signals(number).name}.")


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an exception, once; one that takes none, as a frozen dataclass, stays what it is."""
    with suppress(Exception):
        if text not in getattr(error, "__notes__", []):
            error.add_note(text)


def note_step(error: BaseException, step: int) -> None:
    """Let an exception know after which training step it came, as `after_step`; one that takes nothing does not."""
    with suppress(Exception):
        error.after_step = step  # type: ignore[attr-defined]  # for the launcher, which compares


class RankError(TrainwrightError, RuntimeError):
    """Another process of the run failed or is gone, so this one cannot go on; the message names it."""


class JobError(TrainwrightError, RuntimeError):
    """A tracked job cannot be started, found or changed."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known name that is nearest to what a user wrote, or an empty string."""
    known, written = list(known), str(name)
    lowered, names = written.lower(), [one.lower() for one in known]
    near = (
        difflib.get_close_matches(lowered, names, n=1, cutoff=0.8)
        or [one for one in names if len(lowered) > 3 and one.startswith(lowered)]
        or difflib.get_close_matches(lowered, names, n=1, cutoff=0.6)
    )
    alike = [one for one in known if near and one.lower() == near[0]]
    return f" Did you mean '{difflib.get_close_matches(written, alike, n=1, cutoff=0)[0]}'?" if alike else ""


def missing_package(package: str, extra: str, purpose: str) -> ConfigError:
    """Return the one-line error for an optional package that is not installed."""
    return ConfigError(
        f"{purpose} needs the package '{package}', which is not installed: pip install 'trainwright[{extra}]'."
    )
