"""A save of which every process writes its part: all begin it together, and become sure together that it is whole.

The threads that write exchange nothing. How far each of them is goes with what the loop exchanges at every step anyway;
when all have written, or one has failed, every process knows it at the same step. Then what the manifest is to say goes
to the first one, which writes it and renames the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from trainwright.checkpoint.sharded.snapshot import Owned
from trainwright.checkpoint.writer import PendingCheckpoint, Writer, Written, publish, write_files
from trainwright.errors import SaveError
from trainwright.parallel.strategy import Strategy


class Stage(IntEnum):
    """How far a process is with its part of the save in flight."""

    NOTHING = 0
    WRITING = 1
    WRITTEN = 2
    FAILED = 3


class Together:
    """The save in flight, on one of the processes.

    Attributes:
        owned: memory for the weights that this process writes.
    """

    def __init__(self) -> None:
        self.owned = Owned()
        self._writer = Writer()
        self._draft: PendingCheckpoint | None = None
        self._over = False

    @property
    def stage(self) -> Stage:
        """How far this process is; for the step's exchange."""
        if self._draft is None:
            return Stage.NOTHING
        if not self._writer.done:
            return Stage.WRITING
        return Stage.FAILED if self._writer.close() is not None else Stage.WRITTEN

    def start(self, draft: PendingCheckpoint) -> None:
        """Begin to write this process's part."""
        self._draft, self._over = draft, False
        self._writer.start(draft, self._write)

    def hear(self, stages: Any) -> None:
        """Take in how far all processes are, which is the same on each of them."""
        if self._draft is not None:
            self._over = all(one >= Stage.WRITTEN for one in stages)

    def wait_for_own(self) -> None:
        """Wait until this process has written its part, or failed."""
        self._writer.close()

    def wait(self) -> None:
        """Wait as before, and have `settle` wait for all others."""
        self.wait_for_own()
        self._over = self._draft is not None

    def settle(self, strategy: Strategy) -> PendingCheckpoint | None:
        """Tell the first process what all have written, once all have; all call it at the same place.

        Returns:
            What the first process is to publish; None on the others, and where no save is over.

        Raises:
            SaveError: a process could not write its part; it is named, and nothing is left of the save.
        """
        return self.concluded(strategy, strategy.gather(self.outcome())) if self._over else None

    def outcome(self) -> dict[str, Any] | str | None:
        """Wait for this process's part; return what the manifest is to say of its files, or why there are none; None
        without a save in flight."""
        problem = self._writer.close()
        if self._draft is None:
            return None
        return self._draft.written if problem is None else str(problem)

    def concluded(self, strategy: Strategy, outcomes: Sequence[Any]) -> PendingCheckpoint | None:
        """As `settle`, with the outcomes of all processes."""
        draft, self._draft, self._writer, self._over = self._draft, None, Writer(), False
        if draft is None:
            return None
        failed = [f"{text} (process {number})" for number, text in enumerate(outcomes) if isinstance(text, str)]
        if failed:
            if strategy.is_main:
                shutil.rmtree(draft.temporary, ignore_errors=True)
            raise SaveError(failed[0])
        if not strategy.is_main:
            return None
        for entries in outcomes:
            draft.written |= entries
        return draft

    def _write(self, draft: PendingCheckpoint) -> Written:
        self.owned.ready()
        write_files(draft)
        return Written(draft.place, [], [])


def publish_all(draft: PendingCheckpoint) -> Written:
    """Make what all processes have written a checkpoint.

    Raises:
        SaveError: that cannot be done; what was there before is untouched.
    """
    try:
        return publish(draft)
    finally:
        shutil.rmtree(draft.temporary, ignore_errors=True)
