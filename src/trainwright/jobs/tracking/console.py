"""What a run that was begun by hand prints is kept in its job's log too, as a worker keeps it of the queue's jobs."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from trainwright.jobs import paths

_MOVES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")  # of a terminal's cursor, and its colours
_UP = re.compile(r"\x1b\[(\d*)A")
_REDRAWN = 40  # lines at the end that a live table may draw anew
_LARGEST = 64_000_000  # bytes, after which nothing more is kept


class _Log:
    """A file of lines, in which those that a terminal shows one over the other are kept as they were last."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[str] = []
        self._line = ""
        self._size = 0
        self._live = self._ups = 0  # lines of a live table, which come again; and upward moves since the last line
        self._writing = threading.Lock()
        self._pid = os.getpid()

    def take(self, text: str) -> None:
        """Take what is printed, but for what a process prints that was forked, perhaps while another thread wrote."""
        if os.getpid() != self._pid:
            return
        with self._writing:
            for part in re.split(r"(\n|\r|\x1b\[\d*A)", text):
                self._take(part)
            self._write(self._lines[:-_REDRAWN])
            del self._lines[:-_REDRAWN]

    def _take(self, part: str) -> None:
        up = _UP.fullmatch(part)
        if part == "\n":
            self._lines.append(self._line)
            self._line, self._ups = "", 0
        elif part == "\r":
            self._line = self._line and f"{self._line}\r"
        elif up is not None:
            count = int(up[1] or 1)
            self._ups += count
            self._live = min(self._ups, _REDRAWN)
            del self._lines[len(self._lines) - min(count, len(self._lines)) :]
            self._line = ""
        elif part:
            before = "" if self._line.endswith("\r") else self._line
            self._line = before + _MOVES.sub("", part)

    def flush(self) -> None:
        """Write all whole lines that do not come again, for whoever looks at the log."""
        with self._writing:
            done = len(self._lines) - self._live
            self._write(self._lines[: max(done, 0)])
            del self._lines[: max(done, 0)]

    def close(self) -> None:
        """Write the rest."""
        with self._writing:
            self._write([*self._lines, *([self._line] if self._line.strip() else [])])
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, lines: list[str]) -> None:
        text = "".join(f"{line.rstrip()}\n" for line in lines).encode(errors="backslashreplace")
        if text and self._descriptor >= 0 and self._size < _LARGEST:
            self._size += len(text)
            with suppress(OSError):  # a full disk is no reason not to print
                os.write(self._descriptor, text)


class _Copied:
    """A stream of text whose words go into a log too; in all else it is the stream."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self._stream, self._log = stream, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def write(self, text: str) -> int:
        """Print."""
        count = self._stream.write(text)
        self._log.take(text)
        return count

    def writelines(self, lines: Any) -> None:
        """Print several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Let what was printed be seen."""
        self._stream.flush()


class Kept:
    """What this process prints from now on until `end` is kept in a job's folder, unless a worker does.

    No context manager, which would put a traceback on an exception that takes none.
    """

    def __init__(self, folder: Path) -> None:
        self._log: _Log | None = None
        if paths.WORKER in os.environ:
            return
        try:
            self._log = _Log(folder / paths.LOG)
        except OSError as error:
            print(f"Note: what this run prints is not kept ({error.strerror}).", file=sys.stderr, flush=True)
            return
        names = [name for name in ("stdout", "stderr") if getattr(sys, name) is not None]
        self._before = {name: getattr(sys, name) for name in names}
        self._own: dict[str, Any] = {name: _Copied(stream, self._log) for name, stream in self._before.items()}
        for name, copied in self._own.items():
            setattr(sys, name, copied)
        self._over = threading.Event()
        given = (self._log, self._over)
        self._writer = threading.Thread(target=_flushing, args=given, name="trainwright-console", daemon=True)
        self._writer.start()

    def end(self) -> None:
        """Write the rest, and print as before."""
        if self._log is None:
            return
        self._over.set()
        for name, copied in self._own.items():
            if getattr(sys, name) is copied:
                setattr(sys, name, self._before[name])
        self._writer.join()
        self._log.close()


def _flushing(log: _Log, over: threading.Event) -> None:
    while not over.wait(2.0):
        log.flush()
