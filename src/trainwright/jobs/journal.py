"""The append-only file that tells a job's story: one JSON line for everything that happened to it.

The caller only appends to a list; a thread writes it every 0.2 s. So a kill loses at most that, and no database is in
the way of a training.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainwright.jobs import places

FLUSH_SECONDS = 0.2


class Journal:
    """Writes records to a file.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        places.make(path.parent)
        self.path = path
        self._waiting: list[dict[str, Any]] = []
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trainwright-journal", daemon=True)
        self._thread.start()

    def add(self, what: str, /, **values: Any) -> None:
        """Note that something happened, now."""
        self._waiting.append({"k": what, "t": time.time(), **values})

    def flush(self) -> None:
        """Write what is waiting."""
        with self._writing:
            waiting, self._waiting = self._waiting, []
            if not waiting:
                return
            text = "".join(json.dumps(record, default=str) + "\n" for record in waiting)
            # opened anew each time: a folder that was removed or moved is not written to behind one's back
            with self.path.open("ab") as file:
                file.write(text.encode())

    def close(self) -> None:
        """Write what is waiting, and stop the thread."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):  # a full disk is no reason for a training to fail
            self.flush()

    def _run(self) -> None:
        while not self._ended.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except OSError:
                continue  # a full disk: what was taken is lost, and training goes on


def read_journal(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the records from a byte on, and the byte after the last whole line.

    A line that is no JSON (a disk that was full in the middle of it) is left out.
    """
    if not path.is_file():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    records = []
    for line in whole.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records, start + len(whole)
