"""The append-only file that tells a job's story: one JSON line for everything that happened to it.

The caller only appends to a list; a thread writes it every 0.2 s. So a kill loses at most that, and no database and no
full disk is in the way of a training.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainwright.jobs import clock, paths
from trainwright.jobs.journal import records

FLUSH_SECONDS = 0.2
_MOST_WAITING = 32_000_000  # bytes, while the file cannot be written
_LAST_SECONDS = 3.0  # that the end waits for a disk that is full
_PART = 8_000_000  # bytes that are read at once; no line is longer
_END = 1_000_000  # bytes that hold the newest words of how far a job is


class Journal:
    """Writes records to a file.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        paths.make(path.parent)
        self.path = path
        self._waiting: deque[records.Record] = deque()
        self._known: records.Record = {}
        self._newest: deque[records.Record] = deque(maxlen=1)
        self._unwritten = bytearray(b"" if _is_whole(path) else b"\n")
        self._left_out = 0
        self._failing: tuple[float, str] | None = None
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trainwright-journal", daemon=True)
        self._thread.start()

    def add(self, what: str, /, **values: Any) -> None:
        """Note that something happened, now."""
        self._waiting.append({"k": what, "t": clock.now(), **values})

    def replace(self, what: str, /, **values: Any) -> None:
        """Note how something is by now; of several such words between two writes the last one is written."""
        self._known |= {"k": what, "t": clock.now(), **values}
        self._newest.append(dict(self._known))

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            OSError: not all of it could be written; it waits.
        """
        with self._writing:
            self._take()
            if not self._unwritten:
                return
            # opened anew each time: a folder that was removed or moved is not written to behind one's back
            with self.path.open("ab", buffering=0) as file:
                while self._unwritten:  # a disk that gets full takes a part
                    del self._unwritten[: file.write(self._unwritten)]
            self._recovered()

    def close(self) -> None:
        """Write what is waiting, and stop the thread; a full disk is waited for a little."""
        self._ended.set()
        self._thread.join()
        end = time.monotonic() + _LAST_SECONDS
        while True:
            try:
                return self.flush()
            except OSError as error:
                if time.monotonic() > end:
                    return _say(f"the end of {self.path} could not be written: {error.strerror or error}")
                time.sleep(FLUSH_SECONDS)

    def abandon(self) -> None:
        """Stop the thread, and write nothing more."""
        self._ended.set()
        self._thread.join()

    def _take(self) -> None:
        """Bring the records that wait to lines; how a job is by now comes before how it ended."""
        while self._waiting:
            record = self._waiting.popleft()
            if record["k"] == "status":
                self._take_newest()
            self._take_one(record)
        self._take_newest()

    def _take_newest(self) -> None:
        while self._newest:
            self._take_one(self._newest.popleft())

    def _take_one(self, record: records.Record) -> None:
        line = json.dumps(record).encode() + b"\n"
        if len(self._unwritten) + len(line) > _MOST_WAITING and record["k"] != "status":
            self._left_out += 1
        else:
            self._unwritten += line

    def _run(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception as error:  # whatever it is, the next records are to be written
                self._fails(error)

    def _fails(self, error: Exception) -> None:
        if self._failing is None:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._failing = (time.monotonic(), reason)
            _say(f"{self.path} cannot be written ({reason}); what happens is kept in memory until it can")

    def _recovered(self) -> None:
        if self._failing is None:
            return
        since, reason = self._failing
        lost = f"{self._left_out} records did not fit into memory" if self._left_out else "nothing was lost"
        text = f"The journal could not be written for {time.monotonic() - since:.0f} s ({reason}); {lost}."
        self._failing, self._left_out = None, 0
        self.add("event", kind="journal", text=text)


class Direct:
    """Writes every record at once: for a process that a job's began, which may end without a word.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failing = False

    def add(self, what: str, /, **values: Any) -> None:
        """Note that something happened, now."""
        try:
            append(self.path, what, **{"t": clock.now(), **values})
            self._failing = False
        except OSError as error:
            if not self._failing:
                _say(f"{self.path} cannot be written ({error.strerror or error}); what happens is left out")
            self._failing = True

    replace = add

    def close(self) -> None:
        """Do nothing: all is written."""


def append(path: Path, what: str, /, **values: Any) -> None:
    """Add one record to a job's journal, from another process than the job's.

    Raises:
        OSError: the file cannot be written.
    """
    paths.make(path.parent)
    start = b"" if _is_whole(path) else b"\n"
    with path.open("ab", buffering=0) as file:
        file.write(start + json.dumps({"k": what, "t": time.time(), **values}).encode() + b"\n")


@dataclass
class Part:
    """A stretch of a journal.

    Attributes:
        records: of its lines.
        end: the byte after its last whole line.
        damaged: how many lines could not be read.
        first: of them, where and why.
    """

    records: list[records.Record] = field(default_factory=list)
    end: int = 0
    damaged: int = 0
    first: str = ""

    def complaint(self) -> str:
        """Return what is to be said of the lines that could not be read."""
        lines = "A line" if self.damaged == 1 else f"{self.damaged} lines"
        return f"{lines} of the journal cannot be read and did not count; {self.first}."


def read_journal(path: Path, start: int = 0) -> Part:
    """Return what a journal holds from a byte on, at most 8 MB of it; a line that is no record is told apart."""
    part = Part(end=start)
    if not path.is_file():
        return part
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(_PART)
    whole = content[: content.rfind(b"\n") + 1]
    if not whole and len(content) == _PART:  # no line that was written here is that long
        whole = content
    for line in whole.splitlines(keepends=True):
        try:
            if line.strip():
                part.records.append(records.parse(line))
        except ValueError as error:
            part.first = part.first or f"at byte {part.end}: {error}"
            part.damaged += 1
        part.end += len(line)
    return part


def steps_before(path: Path) -> dict[str, int]:
    """Return how many steps a job's processes had done when they last told, by the folder of their run."""
    start = max(path.stat().st_size - _END, 0) if path.is_file() else 0
    found: dict[str, int] = {}
    run = None
    for record in read_journal(path, start).records:
        if record["k"] == "time":
            run = record["run"]
            found[run] = max(found.get(run, 0), record["reached"], record["step"])
        elif record["k"] == "progress" and record["step"] is not None and run is not None:
            found[run] = max(found[run], record["step"])
    return found


def last_steps(path: Path) -> dict[str, int]:
    """Return the last step that a journal has of every metric."""
    found: dict[str, int] = {}
    start = 0
    while (part := read_journal(path, start)).end > start:
        found |= {record["name"]: record["step"] for record in part.records if record["k"] == "metric"}
        start = part.end
    return found


def _is_whole(path: Path) -> bool:
    """Whether a file ends with a whole line; a kill may have left it with a part of one."""
    if not path.is_file() or path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _say(text: str) -> None:
    print(f"Note: {text}.", file=sys.stderr, flush=True)
