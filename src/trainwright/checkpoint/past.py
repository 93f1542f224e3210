"""The checkpoints that a run has written, and which of them `save_total_limit` deletes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from trainwright.checkpoint import folder
from trainwright.checkpoint.layout import step_of


@dataclass
class Past:
    """The checkpoints of a run in its folder: looked for once, then known, so that no save reads their manifests again.

    Attributes:
        place: the run's folder.
        run_id: the run.
    """

    place: Path
    run_id: str
    _known: list[Path] | None = field(default=None, init=False)

    def checkpoints(self) -> list[Path]:
        """Return them, oldest step first, without those that someone has deleted meanwhile."""
        if self._known is None:
            self._known = folder.of_run(self.place, self.run_id)
        there = set(os.listdir(self.place))
        self._known = [path for path in self._known if path.name in there]
        return self._known

    def add(self, checkpoint: Path) -> None:
        """Note a checkpoint that was written now, or again."""
        if self._known is not None:
            self._known = sorted({*self._known, checkpoint}, key=step_of)

    def expired(self, keep: int | None, best: str | None, coming: int = 0) -> list[Path]:
        """Return the oldest checkpoints beyond `keep`, never the best nor the newest; without a limit, look at nothing.

        Args:
            keep: how many may stay; None for all.
            best: the best checkpoint so far.
            coming: checkpoints about to be written, which count too.
        """
        if keep is None:
            return []
        present = self.checkpoints()
        chosen = None if best is None else Path(best).resolve()
        old = (path for path in present[:-1] if path.resolve() != chosen)
        return list(islice(old, max(0, len(present) + coming - keep)))
