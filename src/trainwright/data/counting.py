"""A progress bar for finding a place in data by reading it again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Give the function that is told how many more were read; a bar shows it, on a terminal.

    Args:
        total: how many there are to read.
        what: what is counted, in the plural.
    """
    if total == 0 or not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{what} read again", total=total)
        yield lambda more: bar.advance(task, more)
