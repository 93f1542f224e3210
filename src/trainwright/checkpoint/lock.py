"""One run at a time in a folder: a lock that the kernel frees when its holder dies.

A command takes it before anything is written into the folder and lends it to the Trainer; a Trainer of a script takes
it itself.

Its file is gone when the run is over. Who waited for it may hold a file that lies nowhere any more, so whoever has the
lock looks whether its file is still the one in the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainwright.errors import ConfigError
from trainwright.world import current_world

NAME = ".trainwright.lock"
_STALE = 60.0
_BEAT = 15.0
_CHILDREN = 15.0  # seconds that children of a killed holder may live on


class RunLock:
    """Holds a run's folder; `flock`, or where the file system has none, a file that is touched every 15 s."""

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / NAME
        self.file: Any = None
        self.taken = 0  # how often: who has it may take it again, and gives it back as often
        self.released = threading.Event()

    def acquire(self) -> None:
        """Make the folder where it is not there, and take the lock.

        Raises:
            ConfigError: the folder cannot be made or written, or another run holds it.
        """
        if self.file is None:
            self._acquire()
        self.taken += 1

    def _acquire(self) -> None:
        until = time.monotonic() + _CHILDREN
        self.released = threading.Event()
        self.file = self._opened()
        while not (self._taken() and self._lies_in_the_folder()):
            if self._lies_in_the_folder():
                if _is_alive(self._holder()) or time.monotonic() > until:
                    self._refuse()
                time.sleep(0.1)  # its data workers hold the lock with it, and notice its death within seconds
            else:  # another run ended and took the file away
                self.file.close()
                self.file = self._opened()
        self._write({"pid": os.getpid(), "host": socket.gethostname(), "start": time.ctime()})

    def _opened(self) -> Any:
        output_dir = self.path.parent
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            probe = output_dir / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)
            return self.path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"output_dir='{output_dir}' cannot be written ({error.strerror}); give another folder or its rights."
            ) from error

    def name(self, run_id: str) -> None:
        """Note the run that holds the folder; only the process that has the lock does."""
        if self.file is not None:
            self._write({**self._holder(), "run": run_id})

    def _write(self, holder: dict[str, Any]) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.write(json.dumps(holder) + "\n")
        self.file.flush()

    def release(self) -> None:
        """Give the lock back, and take its file away while no one else can have it."""
        self.taken = max(self.taken - 1, 0)
        if self.file is None or self.taken:
            return
        self.released.set()
        if self._lies_in_the_folder() and self._holder().get("pid") == os.getpid():
            self.path.unlink(missing_ok=True)
        self.file.close()
        self.file = None

    def _lies_in_the_folder(self) -> bool:
        """Whether the open file is the one that others find."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except OSError:
            return False

    def _taken(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a network folder without flock
            self._take_by_heartbeat()
        return True

    def _take_by_heartbeat(self) -> None:
        age = time.time() - self.path.stat().st_mtime
        if self._holder() and age < _STALE:
            self._refuse()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self.released.wait(_BEAT):
            try:
                os.utime(self.path)
            except OSError:
                return  # the folder is gone; the next save says so

    def _holder(self) -> dict[str, Any]:
        self.file.seek(0)
        try:
            found: dict[str, Any] = json.loads(self.file.read())
        except ValueError:
            return {}
        return found

    def _refuse(self) -> None:
        holder = self._holder()
        self.file.close()
        self.file = None
        who = f"process {holder['pid']} on {holder['host']}, since {holder['start']}" if holder else "another process"
        raise ConfigError(
            f"output_dir='{self.path.parent}' is in use by {who}. Wait for that run, stop it, or give this one another "
            "output_dir."
        )


@contextmanager
def owned(output_dir: Path) -> Iterator[RunLock]:
    """Own a run's folder while the body runs, which the main process does for all of them; where the body fails before
    anything is in it, it is removed again.

    Raises:
        ConfigError: the folder cannot be made or written, or another run is in it.
    """
    lock = RunLock(output_dir)
    try:
        if current_world().is_main:
            lock.acquire()
        yield lock
    except BaseException:
        lock.release()
        with suppress(OSError):  # it holds something, or is not there
            output_dir.rmdir()
        raise
    lock.release()


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process that took the lock may still run; one on another machine may."""
    if not holder or holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
