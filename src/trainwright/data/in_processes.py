"""Work that is shared by processes of our own, none of which outlives the one that began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from trainwright.errors import DataError

Item = TypeVar("Item")
_QUIET = "TOKENIZERS_PARALLELISM"


def in_processes(
    work: Callable[[Item, Callable[[int], Any]], None],
    items: Sequence[Item],
    processes: int,
    tell: Callable[[float], None],
) -> None:
    """Call a function on every item, in several processes at a time.

    Args:
        work: takes an item, and the function that it tells how much is done.
        items: that there are.
        processes: that share them.
        tell: is told what `work` tells.

    Raises:
        DataError: one of the processes died.
        Exception: what `work` raises, and nothing more is begun.
    """
    started: dict[Connection, Any] = {}
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    try:
        with _one_thread_each():
            for first in range(min(processes, len(items))):
                mine, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_share, args=(work, items[first::processes], theirs, os.getpid()), daemon=True
                )
                process.start()
                theirs.close()
                started[mine] = process
        left = set(started)
        while left:
            for ready in wait(list(left)):
                if not _heard(ready, started[ready], tell):  # type: ignore[arg-type, index]  # they are connections
                    left.remove(ready)  # type: ignore[arg-type]  # the same
    finally:
        for connection, process in started.items():
            process.terminate()
            process.join()
            connection.close()


def _heard(connection: Connection, process: Any, tell: Callable[[float], None]) -> bool:
    """Take in what a process says; return whether it has more to say."""
    try:
        said = connection.recv()
    except EOFError:
        process.join()
        how = f"by signal {-process.exitcode}" if process.exitcode < 0 else f"with exit code {process.exitcode}"
        raise DataError(
            f"A process that tokenises ended {how}, as it does where memory runs out. Give a smaller "
            "dataset_num_proc, and start again: what is finished is kept."
        ) from None
    if isinstance(said, Exception):
        raise said
    if said is not None:
        tell(said)
    return said is not None


def _share(work: Callable[..., None], items: Sequence[Any], pipe: Connection, parent: int) -> None:
    """Do a share of the work, and say what is done; None at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def tell(more: int) -> None:
        if os.getppid() != parent:
            raise SystemExit(1)  # it was killed, and another may have its place
        pipe.send(more)

    try:
        for item in items:
            work(item, tell)
        pipe.send(None)
    except Exception as error:
        pipe.send(error)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let tokenizers of processes that begin now work with one thread, and say nothing of it."""
    before = os.environ.get(_QUIET)
    os.environ[_QUIET] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_QUIET]
        else:
            os.environ[_QUIET] = before
