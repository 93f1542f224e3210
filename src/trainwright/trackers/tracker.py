"""A tracker as everybody tells it: a Trainer, a decorated script and a loop of one's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MOST_FAILURES = 3  # in a row, after which a tracker is left alone for a while
_PAUSE = 60.0  # seconds before it is told of the same event again


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Attributes:
        name: of the run.
        parameters: it was begun with.
        folder: where the tracker may write files of its own; nobody has made it.
        output_dir: where the run's results are; empty where that is not known.
        project: a group of runs, in trackers that have them.
        model_config: of the model that a Trainer trains.
        trial: of a search: its name, such as run-0; the parameters are then those that it tries.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path("logs")
    output_dir: str = ""
    project: str = ""
    model_config: Mapping[str, Any] = field(default_factory=dict)
    trial: str | None = None


class Tracker:
    """Base of trackers: everything does nothing. Override what is of use; what raises costs the log, never the run.

    Only the first of several ranks tells a tracker.

    Attributes:
        replaces: the name of transformers' callback whose work it does; who removes that one removes this.
    """

    replaces: str | None = None

    @classmethod
    def wanted(cls, parameters: Mapping[str, Any]) -> bool:
        """Whether a job that names no tracker tells this one: it is installed, and set up where that is needed."""
        return False

    def begin(self, run: TrackedRun) -> None:
        """A run begins; what is logged after its end, such as a last evaluation, begins the same run once more."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers by name, such as train/loss, eval/accuracy and train/epoch, at an optimizer step."""

    def progress(self, step: int, total_steps: int) -> None:
        """So many of the optimizer steps are done; told after each."""

    def artifact(self, kind: str, path: Path, step: int | None) -> None:
        """A file or folder was written: of the kind 'checkpoint', at an optimizer step."""

    def should_stop(self) -> bool:
        """Whether whoever watches the run asks it to save and stop; asked after each optimizer step."""
        return False

    def finish(self, status: str) -> None:
        """The run is over: COMPLETE, FAILED, INTERRUPTED or STOPPED."""

    def callback(self) -> Any:
        """Return transformers' own callback where a Trainer is to tell that in place of this tracker; else None."""
        return None


class Told:
    """Tells a tracker; what fails in it costs what it was told, and is said once.

    An event at which it fails three times in a row is passed over for a minute at a time, lest a server that is away
    keeps the run waiting at every step. The end of a run is always told.

    Args:
        tracker: of whatever class.
        name: of the tracker, in what is said.
    """

    def __init__(self, tracker: Any, name: str | None = None) -> None:
        self.tracker = tracker
        self.name = name or type(tracker).__name__
        self._failures: dict[str, int] = {}  # in a row, by event
        self._paused: dict[str, float] = {}  # until when, by event
        self._said: set[str] = set()

    def tell(self, event: str, *given: Any) -> Any:
        """Call a method of the tracker; return what it returns, None where it fails."""
        return self.call(getattr(self.tracker, event), *given)

    def call(self, method: Any, *given: Any, **named: Any) -> Any:
        """Call a method that is the tracker's; return what it returns, None where it fails."""
        event = getattr(method, "__name__", str(method))
        if event in self._paused and event != "finish" and time.monotonic() < self._paused[event]:
            return None
        try:
            result = method(*given, **named)
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "CancelledError":  # of an async client
                raise
            self._note_failure(event, error)
            return None
        if self._failures:
            self._failures.pop(event, None)
            self._paused.pop(event, None)
        return result

    def _note_failure(self, event: str, error: BaseException) -> None:
        self._failures[event] = self._failures.get(event, 0) + 1
        text = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__
        self._say(
            "failed",
            f"the tracker {self.name} failed at {event} ({text}). The run goes on; what could not be written is "
            "missing there.",
        )
        if self._failures[event] >= _MOST_FAILURES:
            self._paused[event] = time.monotonic() + _PAUSE
            self._say(
                event,
                f"the tracker {self.name} failed at {event} {_MOST_FAILURES} times in a row; from here on that is "
                f"tried once in {_PAUSE:.0f} s until it works again.",
            )

    def _say(self, what: str, sentence: str) -> None:
        if what not in self._said:
            self._said.add(what)
            print(f"Note: {sentence}", file=sys.stderr, flush=True)


class Trackers:
    """Several trackers that a script tells of a loop of its own.

    Args:
        trackers: by name.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._told = [Told(tracker, name) for name, tracker in trackers.items()]
        self._step = 0

    def begin(self, run: TrackedRun) -> None:
        """Tell all of them that a run begins."""
        for one in self._told:
            one.tell("begin", run)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Tell all of them numbers; a step that nobody gives is the one after the last."""
        self._step = self._step + 1 if step is None else step
        for one in self._told:
            one.tell("log", dict(metrics), self._step)

    def finish(self, status: str) -> None:
        """Tell all of them that the run is over."""
        for one in self._told:
            one.tell("finish", status)
