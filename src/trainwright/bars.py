"""Bars for whatever takes more than two seconds, on a terminal: how far it is, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainwright.terminal import Bars

PATIENCE = 2.0  # seconds before a bar is shown
_wanted = True
_open: Bars | None = None  # those on the terminal, which others join


def want(wanted: bool) -> None:
    """Say whether this process shows bars: the main one does, unless `disable_tqdm`."""
    global _wanted
    _wanted = wanted


def shown() -> bool:
    """Whether bars are wanted, and there is a terminal: open ones stand before it."""
    return _wanted and (_open is not None or sys.stderr.isatty())


@contextmanager
def counting(total: int | None, what: str) -> Iterator[Callable[[float], None]]:
    """Give the function that is told how many more are done; after two seconds a bar shows it, on a terminal.

    Args:
        total: how many there are, or None where that is not known.
        what: what is counted, such as "rows read again".
    """
    if total == 0 or not shown():
        yield lambda more: None
        return
    bar = _Late(total, what)
    try:
        yield bar.tell
    finally:
        bar.close()


def open_bars(stream: Any, **settings: Any) -> Bars:
    """Return bars at the lower end of a terminal, which those of `counting` join until `close_bars`."""
    global _open
    from trainwright.terminal import Bars

    _open = Bars(stream, **settings)
    _open.start()
    return _open


def close_bars() -> None:
    """Give the terminal back."""
    global _open
    if _open is not None:
        _open.stop()
    _open = None


class _Late:
    """A bar that is shown after a while, beside those that are there."""

    def __init__(self, total: int | None, what: str) -> None:
        self.total = total
        self.what = what
        self.begun = time.monotonic()
        self.done = 0.0
        self.bars: Bars | None = None
        self.task: Any = None
        self.alone = False

    def tell(self, more: float) -> None:
        """Note that more is done."""
        self.done += more
        if self.bars is not None:
            self.bars.update(self.task, completed=int(self.done))
        elif time.monotonic() - self.begun >= PATIENCE:
            self.alone = _open is None
            self.bars = _open or open_bars(sys.stderr, transient=True)
            self.task = self.bars.add_task(self.what, total=self.total, completed=int(self.done))

    def close(self) -> None:
        """Take the bar away."""
        if self.bars is None:
            return
        if self.alone:
            close_bars()
        else:
            self.bars.remove_task(self.task)
