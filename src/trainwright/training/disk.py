"""What the checkpoints of a run need on the disk, known before it begins."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Disk:
    """What the checkpoints of a run need.

    Attributes:
        checkpoint: bytes of one: the weights that are saved, and the optimizer's state.
        kept: how many there are at the end; None where nobody knows how many steps there will be.
        free: bytes that are free where they will lie.
    """

    checkpoint: int
    kept: int | None
    free: int

    @property
    def total(self) -> int | None:
        """Bytes of all of them."""
        return None if self.kept is None else self.checkpoint * self.kept

    def __str__(self) -> str:
        """Return it in words."""
        each, free = bytes_in_words(self.checkpoint), bytes_in_words(self.free)
        if self.kept is None:
            return f"{each} a checkpoint; {free} free"
        said = f"{self.kept:,} checkpoints of {each}, {bytes_in_words(self.kept * self.checkpoint)}"
        if self.kept < 2:
            said = f"1 checkpoint of {each}" if self.kept else "no checkpoint"
        lacking = ", which is too little" if self.kept * self.checkpoint > self.free else ""
        return f"{said}; {free} free{lacking}"


def needed(args: Any, folder: Path, checkpoint: int, steps: int | None, passes: float | None) -> Disk:
    """Return what the checkpoints of a run need.

    Args:
        args: of the training, which say when there is a save and how many stay.
        folder: the run's.
        checkpoint: bytes of one.
        steps: of the run; None where nobody knows.
        passes: over the data; None where nobody knows.
    """
    there = folder.expanduser().absolute()
    while not there.exists():
        there = there.parent
    return Disk(checkpoint, kept(args, steps, passes), shutil.disk_usage(there).free)


def kept(args: Any, steps: int | None, passes: float | None) -> int | None:
    """Return how many checkpoints there are at the end: one for each save, and the last step's, of which the newest
    `save_total_limit` stay."""
    if args.save_strategy == "no":
        return 0
    most: float = math.inf if args.save_total_limit is None else args.save_total_limit
    saves: float = math.inf
    if args.save_strategy == "steps" and steps is not None:
        every = args.save_steps if args.save_steps >= 1 else math.ceil(steps * args.save_steps)
        saves = math.ceil(steps / max(every, 1))
    elif args.save_strategy == "epoch" and passes is not None and math.isfinite(passes):
        saves = math.ceil(passes)
    found = min(most, saves)
    return None if found == math.inf else int(found)


def checkpoint_bytes(
    weights: int, trained: int, copies: float, *, adapters: bool, only_model: bool, average: int = 0
) -> int:
    """Return the bytes of a checkpoint: the weights, of adapters those alone, the optimizer's state, and the average.

    Args:
        weights: bytes of the model.
        trained: bytes of what is trained.
        copies: of what is trained that the optimizer keeps.
        adapters: whether checkpoints hold adapters alone.
        only_model: whether they hold no optimizer.
        average: bytes of the moving average of the weights.
    """
    return int((trained if adapters else weights) + (0 if only_model else trained * copies) + average)


def bytes_in_words(many: float) -> str:
    """Return a number of bytes: 12.34 GB, 0.63 MB, 1.20 kB."""
    for size, name in ((1e9, "GB"), (1e6, "MB")):
        if many >= size / 10:
            return f"{many / size:.2f} {name}"
    return f"{many / 1e3:.2f} kB"
