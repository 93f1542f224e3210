"""A progress bar for work on data that is done before training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Give the function that is told how many more were read; a bar shows it, on a terminal.

    Args:
        total: how many there are.
        what: what is counted, such as "rows read again".
    """
    if total == 0 or not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.advance(task, more)
