"""Copying a run's checkpoints to a second place while it trains: the newest first, in a thread of its own.

Whatever fails there is told and tried again after the next save; the run itself goes on.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from trainwright.checkpoint import folder
from trainwright.checkpoint.layout import MANIFEST, step_of
from trainwright.checkpoint.mirror.remote import NotWholeError, Remote
from trainwright.checkpoint.writer import reason_of

HURRIED = 15.0  # seconds that a run which is asked to stop waits for its last checkpoint to be copied
STUCK = 600.0  # seconds without a byte that went, after which a run does not wait any longer
_LOOK = 0.1  # seconds between looks at whether it is to hurry


class Mirror:
    """The copies of one run.

    Args:
        remote: where they are.
        run_id: the run.
        keep: how many are kept there; None for all.

    Attributes:
        newest: the name of the newest checkpoint that was copied, or found there; None before.
    """

    def __init__(self, remote: Remote, run_id: str, keep: int | None) -> None:
        self.remote, self.run_id, self.keep = remote, run_id, keep
        self.newest: str | None = None
        self._pending: set[Path] = set()
        self._best: str | None = None
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._told: list[str] = []
        self._given_up = False
        self._moved = 0.0

    def offer(self, checkpoints: Iterable[Path], best: str | None) -> None:
        """Have sealed checkpoints copied, and those deleted there that are beyond the limit.

        Args:
            checkpoints: which are new, or may not be there.
            best: the best checkpoint so far, which stays.
        """
        with self._guard:
            self._pending |= set(checkpoints)
            self._best = None if best is None else Path(best).name
        self._work()

    def told(self) -> list[str]:
        """Return what is to be said, once."""
        with self._guard:
            said, self._told = self._told, []
        return said

    def finish(self, hurries: Callable[[], bool], patience: float) -> None:
        """Wait until all is copied, as long as something moves; then `told` says what was not.

        Args:
            hurries: whether the run is asked to stop, which leaves `HURRIED` seconds.
            patience: seconds that it takes at most.
        """
        if self._given_up:
            return
        self._work()
        self._moved = began = time.monotonic()
        hurried: float | None = None
        while (thread := self._thread) is not None:
            thread.join(_LOOK)
            now = time.monotonic()
            if hurried is None and hurries():
                hurried = now
            if (hurried is not None and now - hurried > HURRIED) or now - began > patience or now - self._moved > STUCK:
                self._tell_left(f"after {now - (hurried or began):.0f} s")
                break
        else:
            if self._pending:
                self._tell_left("as said")
        self._given_up = True

    def _tell_left(self, why: str) -> None:
        there = f"the newest one there is {self.newest}" if self.newest else "none of this run is there"
        with self._guard:
            names = ", ".join(path.name for path in sorted(self._pending, key=step_of))
            self._told.append(f"Not copied to {self.remote.address}, {why}: {names}; {there}.")

    def _work(self) -> None:
        with self._guard:
            if self._thread is None and self._pending and not self._given_up:
                self._thread = threading.Thread(target=self._copy_all, name="mirror", daemon=True)
                self._thread.start()

    def _next(self) -> Path | None:
        """Return the newest one to copy; None ends the thread, and forgets it in the same breath."""
        with self._guard:
            self._pending = {path for path in self._pending if path.is_dir()}  # others were deleted here meanwhile
            if self._pending and not self._given_up:
                return max(self._pending, key=step_of)
            self._thread = None
            return None

    def _copy_all(self) -> None:
        try:
            while (checkpoint := self._next()) is not None:
                self._copy(checkpoint)
        except Exception as error:  # a file system raises what it likes, and no run ends for a copy
            with self._guard:
                self._thread = None
                self._told.append(
                    f"The checkpoints could not be copied to {self.remote.address}: {reason_of(error)}. Training goes "
                    "on, and the next save tries again."
                )

    def _copy(self, checkpoint: Path) -> None:
        try:
            if not self._is_there(checkpoint):
                self._send(checkpoint)
        except FileNotFoundError:
            if checkpoint.is_dir():
                raise
            self.remote.delete(self.run_id, checkpoint.name)  # half of one that was deleted here
            return
        if self.newest is None or step_of(Path(self.newest)) < step_of(checkpoint):
            self._point_to(checkpoint.name)
        with self._guard:
            self._pending.discard(checkpoint)
            coming = {path.name for path in self._pending}
        self._rotate(coming)

    def _send(self, checkpoint: Path) -> None:
        staged = _staged(checkpoint)
        try:
            self.remote.send(self.run_id, checkpoint.name, staged or checkpoint, self._note_move)
        finally:
            if staged is not None:
                shutil.rmtree(staged, ignore_errors=True)

    def _point_to(self, checkpoint: str) -> None:
        """Note the newest checkpoint there, and say at the first one whose place it takes."""
        before = self.remote.latest() if self.newest is None else None
        self.remote.point(self.run_id, checkpoint)
        self.newest = checkpoint
        if before is not None and before[0] != self.run_id:
            with self._guard:
                self._told.append(
                    f"The checkpoints of another run stay in {self.remote.address}/{before[0]}; this run's are beside "
                    f"them, in {self.run_id}, and a run that is begun on an empty disk goes on from these."
                )

    def _is_there(self, checkpoint: Path) -> bool:
        """Whether the same checkpoint was copied to its end before."""
        own = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        there = self.remote.checkpoints(self.run_id).get(checkpoint.name, {})
        try:
            return bool(folder.digest(self.remote.manifest(self.run_id, checkpoint.name, there)) == own["sha256"])
        except NotWholeError:
            return False

    def _rotate(self, coming: set[str]) -> None:
        """Delete what is beyond the limit there, and what is left of copies that were broken off; but not what comes
        after the newest, which was set aside here."""
        newest = step_of(Path(self.newest or ""))
        found = self.remote.checkpoints(self.run_id)
        there = {name: files for name, files in found.items() if step_of(Path(name)) <= newest}
        whole = sorted((name for name in there if MANIFEST in there[name]), key=lambda name: step_of(Path(name)))
        broken = [name for name in there if MANIFEST not in there[name] and name not in coming]
        beyond = 0 if self.keep is None else len(whole) - self.keep
        old = [name for name in whole[:-1] if name != self._best][: max(beyond, 0)]
        for name in (*broken, *old):
            self.remote.delete(self.run_id, name)

    def _note_move(self) -> None:
        self._moved = time.monotonic()


def _staged(checkpoint: Path) -> Path | None:
    """Return a folder that holds the files of a checkpoint by links, so that deleting it does not break off its copy;
    None where the file system cannot do that."""
    staged = folder.open_temporary(checkpoint.with_name(f"mirror-{checkpoint.name}"))
    try:
        folder.link_all(checkpoint, staged)
    except OSError:
        shutil.rmtree(staged, ignore_errors=True)
        return None
    return staged
