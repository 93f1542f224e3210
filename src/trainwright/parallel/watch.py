"""A thread that looks whether the steps of a run on several processes go on, and says which process holds them up."""

from __future__ import annotations

import faulthandler
import logging
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping

from trainwright.parallel.strategy import Strategy

logger = logging.getLogger("trainwright")
_TENFOLD, _MORE = 10, 4.0  # times the usual step, and seconds on top, after which a step is held up
_LOOK = 1.0  # seconds between two looks
_ANSWER = 3.0  # seconds in which every process says where it is
_KNOWN = 3  # steps after which it is known what is usual
_INNERMOST = 3  # frames by which waiting for others is known
_NONE: Mapping[int, str] = {}
_ALL = "All ranks wait for each other"
_WAITING = ("/torch/distributed/", "/torch/autograd/graph.py", "/trainwright/parallel/")


class Watch:
    """Watches the steps of one process, while it is entered and there are others.

    Attributes:
        found: who holds the run up, in a sentence without its end, while it is held up.
        held: of those, by rank, where each is.
        each_look: called with `held` every second, in the thread.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.found: str | None = None
        self.held: Mapping[int, str] = _NONE
        self.each_look: Callable[[Mapping[int, str]], None] = lambda held: None
        self._strategy = strategy
        self._usual: deque[float] = deque(maxlen=50)
        self._since: float | None = None
        self._step = 0
        self._over = threading.Event()
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._look, name="trainwright-watch", daemon=True)

    def __enter__(self) -> Watch:
        if self._strategy.is_distributed:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def begin_step(self, step: int) -> None:
        """Note that a step begins, with what waits for its data."""
        self._step, self._since, self.found, self.held = step, time.monotonic(), None, _NONE

    def end_step(self) -> None:
        """Note that it is over: evaluations and saves take their own time."""
        if self._since is not None:
            self._usual.append(time.monotonic() - self._since)
        self._since = None

    def _look(self) -> None:
        told = -1
        while not self._over.wait(_LOOK):
            self.each_look(self.held)
            since, step = self._since, self._step
            if since is None or step == told or len(self._usual) < _KNOWN:
                continue
            usual, now = statistics.median(self._usual), time.monotonic() - since
            if now > _TENFOLD * usual + _MORE:
                told = step
                self._tell(step, f"step {step} has taken {now:.0f} s, where {usual:.2g} s are usual")

    def _tell(self, step: int, what: str) -> None:
        """Say where this process is, hear it of the others, and name those that do not wait for any."""
        where = traceback.extract_stack(sys._current_frames()[self._main])
        waits = any(part in frame.filename for frame in where[-_INNERMOST:] for part in _WAITING)
        last = where[-1]
        at = "" if waits else f"{last.filename}:{last.lineno} in {last.name}"
        if at:
            faulthandler.dump_traceback(2)  # which is there in every process
        answers = self._strategy.answers(f"where in step {step}", at, _ANSWER)
        told = {rank: f"is at {at}" if at else "does not answer" for rank, (_, at) in enumerate(answers) if at != ""}
        self.found = "; ".join(f"{answers[rank][0]} {where}" for rank, where in told.items()) or _ALL
        self.held = {rank: f"{where} in step {step}" for rank, where in told.items()}
        logger.warning("%s: %s. %s", self.found, what, "Its stack stands in its own output." if told else "")
