"""The processes that fetch rows for torch's DataLoader."""

from __future__ import annotations

import functools
import multiprocessing.queues
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch._utils import ExceptionWrapper

from trainwright.data.loaders.rows import RowFetcher, as_it_is
from trainwright.errors import STOP_SIGNALS, DataError, is_foreign

_LET_THREADS_FINISH = 0.02
_GRACE = 30  # seconds a worker goes on after a SIGTERM
_PATIENCE = 3.0  # seconds in which workers end by themselves


def worker_init(given: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """Return the function that a worker calls first, around the user's own."""
    return functools.partial(_begin, given)


@contextmanager
def reading(loader: Any) -> Iterator[Iterator[Any]]:
    """Give the batches of a torch DataLoader; on leaving, however, its workers end, unless they are kept.

    A worker outlives the first SIGTERM, so one left to the end of the process would hold that up. And torch would raise
    the death of a worker wherever the main thread happens to be, in the middle of an update too; here it is raised
    where the worker's batch is waited for.

    Raises:
        DataError: a worker died.
    """
    workers = getattr(loader, "num_workers", 0)
    if workers and torch.distributed.is_initialized():
        # A child forked while another thread enters the interpreter waits for ever (python 3.11 to 3.12); the threads
        # of the last exchange between ranks do so when they let go of its tensors.
        time.sleep(_LET_THREADS_FINISH)
    batches = iter(loader) if workers else _in_this_process(loader)
    before, patience = _ignore_deaths() if workers else None, _PATIENCE
    try:
        yield batches
    except Exception as error:
        dead = _death(error, batches) if workers else None
        if dead is None:
            raise
        raise dead from error
    except GeneratorExit:
        raise
    except BaseException:
        patience = 0.0  # waiting was broken off: they may hang
        raise
    finally:
        if not getattr(loader, "persistent_workers", False):
            _end(batches, patience)
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _in_this_process(loader: Any) -> Iterator[Any]:
    """Give the batches of a loader without workers; where ours makes them, without torch's DataLoader in between, which
    takes nearly as long as making a small one."""
    rows = getattr(loader, "dataset", None)
    if isinstance(rows, RowFetcher) and loader.collate_fn is as_it_is and not loader.pin_memory:
        return map(rows.__getitems__, loader.batch_sampler)
    return iter(loader)


def _ignore_deaths() -> Any:
    """Let no death of a child process raise an error by itself; return the handler before, or None if that stays."""
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGCHLD)):
        return None
    return signal.signal(signal.SIGCHLD, lambda number, frame: None)


def end_workers(loader: Any) -> None:
    """End the workers that a loader keeps from pass to pass."""
    _end(getattr(loader, "_iterator", None))
    if hasattr(loader, "_iterator"):
        loader._iterator = None


def _end(batches: Any, patience: float = _PATIENCE) -> None:
    """End the workers of a pass; those that hang are killed."""
    if not getattr(batches, "_workers", None):
        return
    killer = threading.Timer(patience, lambda: [worker.kill() for worker in batches._workers])
    killer.daemon = True
    killer.start()
    batches._shutdown_workers()
    killer.cancel()


def _begin(given: Callable[[int], None] | None, worker: int) -> None:
    """Leave signals to the main process, which finishes its step and saves; workers end with it."""
    for number in STOP_SIGNALS:
        if not is_foreign(number):  # faulthandler tells where a worker hangs
            signal.signal(number, go_on_for_a_while if number == signal.SIGTERM else signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = _say_why  # type: ignore[attr-defined]  # where a queue tells of what cannot be sent
    if given is not None:
        given(worker)


def _say_why(queue: Any, error: BaseException, sent: Any) -> None:
    """Send an error in place of what could not be sent, which python drops, so that the main process waits for ever."""
    number, value = sent
    what = value.exc_msg if isinstance(value, ExceptionWrapper) else f"It made a batch that holds {_kinds(value)}."
    fault = DataError(
        f"A process that loads data could not send its result, since it cannot be pickled ({error}). {what.strip()} "
        "Give batches of tensors and plain values, and errors whose classes are in a module; or read the data with "
        "dataloader_num_workers=0."
    )
    queue.put((number, ExceptionWrapper((DataError, fault, None))))


def _kinds(value: Any) -> str:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    return ", ".join(sorted({type(part).__name__ for part in parts}))


def _death(error: Exception, batches: Any) -> DataError | None:
    """Return the sentence for a worker that died, as torch or the connection to it tells it; None for other errors."""
    reason = str(error).strip() or type(error).__name__
    lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and not reason.startswith(
        "Caught "
    )  # torch, of a row's error
    if not lost and not reason.startswith("DataLoader worker"):
        return None
    told = f"A process that loads data was killed or has left ({reason})."
    left = [worker.exitcode for worker in getattr(batches, "_workers", []) if (worker.exitcode or 0) > 0]
    if left:
        why = (
            f"It left by itself, with exit code {left[0]}, and what it printed says why. One that is "
            "started anew (spawn) is sent the dataset and the collator, which must survive pickling; "
            "dataloader_num_workers=0 reads without one."
        )
    else:
        why = "Often memory ran out: use fewer workers (dataloader_num_workers) or smaller rows."
    return DataError(f"{told} {why} The run can be resumed.")


def go_on_for_a_while(number: int, frame: FrameType | None) -> None:
    """The first SIGTERM is likely the whole group's; a second one, or no end of the main process, ends the worker."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_GRACE)
