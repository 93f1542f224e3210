"""The order of the data, as a pure function: which rows make up any optimizer step of a run.

Nothing here reads the data. The rows of a step follow from the seed, the epoch and the position alone, so that
resuming costs the same at any step, and any batch of the past can be named again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Order:
    """The permutation of the rows in each epoch.

    Attributes:
        num_rows: rows of the dataset.
        sampling: `random`, `sequential`, `by_length` (the longest first) or `group_by_length`.
        seed: seed of the permutation; epoch e draws from `seed + e`, as transformers does.
        lengths: length of every row, for `by_length` and `group_by_length`.
        group_rows: rows of one batch that should have similar lengths.
    """

    num_rows: int
    sampling: str = "random"
    seed: int = 42
    lengths: Sequence[int] | None = field(default=None, repr=False)
    group_rows: int = 1

    def rows(self, epoch: int) -> np.ndarray:
        """Return all row indices in the order of this epoch; int64, shape (num_rows,)."""
        if self.sampling == "sequential":
            return np.arange(self.num_rows)
        if self.sampling == "by_length":
            return np.argsort(-np.asarray(self.lengths), kind="stable")
        generator = torch.Generator().manual_seed(self.seed + epoch)
        if self.lengths is None:
            return torch.randperm(self.num_rows, generator=generator).numpy()
        return grouped_by_length(self.lengths, self.group_rows, generator)


def grouped_by_length(lengths: Sequence[int], group_rows: int, generator: torch.Generator) -> np.ndarray:
    """Return a random order in which neighbouring rows have similar lengths; int64, shape (len(lengths),).

    The rule of transformers' LengthGroupedSampler: shuffle, cut into megabatches of up to 50 batches, sort each by
    falling length, and bring the longest row to the very front, so that memory runs out at the first step or never.
    """
    # The one draw that torch's DataLoader takes from the same stream before its sampler, for the same order.
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    order = torch.randperm(len(lengths), generator=generator).numpy()
    sizes = np.asarray(lengths)
    megabatch = max(1, min(len(lengths) // (group_rows * 4), 50)) * group_rows
    chunks = [order[start : start + megabatch] for start in range(0, len(order), megabatch)]
    chunks = [chunk[np.argsort(-sizes[chunk], kind="stable")] for chunk in chunks]
    longest = int(np.argmax([sizes[chunk[0]] for chunk in chunks]))
    chunks[0][0], chunks[longest][0] = chunks[longest][0], chunks[0][0]
    return np.concatenate(chunks)


@dataclass(frozen=True)
class Batching:
    """How the rows of an epoch are cut: G = batch_size × accumulation × ranks rows make one optimizer step."""

    batch_size: int
    accumulation: int = 1
    ranks: int = 1
    drop_last: bool = False

    @property
    def step_rows(self) -> int:
        """Rows of one optimizer step, over all ranks."""
        return self.batch_size * self.accumulation * self.ranks


@dataclass
class Plan:
    """Which rows each rank sees, micro-batch by micro-batch; a function of (epoch, position) and nothing else.

    A position is the number of rows of the epoch that are done, so it stays true when the batch changes.

    Attributes:
        most_rows: rows used of an epoch on the rank that uses the most, where each has rows of its own.
        first_rows: rows of the dataset when the run began, where it grew or shrank since; else None.
    """

    order: Order
    batching: Batching
    most_rows: int = field(default=0, compare=False)
    first_rows: int | None = field(default=None, compare=False)
    _kept: tuple[int, np.ndarray] | None = field(default=None, repr=False, compare=False)

    @property
    def epoch_rows(self) -> int:
        """Rows used of an epoch."""
        micro_rows = self.batching.batch_size * self.batching.ranks
        rows = self.order.num_rows
        return rows // micro_rows * micro_rows if self.batching.drop_last else rows

    @property
    def micro_batches_per_epoch(self) -> int:
        """Micro-batches that every rank runs in an epoch."""
        return self.micro_batches(self.epoch_rows)

    def micro_batches(self, rows: int) -> int:
        """Return how many micro-batches each rank runs for this many rows."""
        return math.ceil(rows / (self.batching.batch_size * self.batching.ranks))

    def steps_left(self, position: int) -> int:
        """Return the optimizer steps of an epoch after `position` rows of it."""
        return math.ceil(max(0, max(self.epoch_rows, self.most_rows) - position) / self.batching.step_rows)

    def step(self, epoch: int, position: int) -> list[list[np.ndarray]]:
        """Return the rows of the step that begins at `position`: for each micro-batch, for each rank, row indices.

        The rows in order are the same for any number of ranks. A rank for which none are left in the last step of an
        epoch gets an empty array.
        """
        rows = self.rows(epoch)[position : min(position + self.batching.step_rows, self.epoch_rows)]
        size, ranks = self.batching.batch_size, self.batching.ranks
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        chunks += [rows[:0]] * (-len(chunks) % ranks)
        return [chunks[start : start + ranks] for start in range(0, len(chunks), ranks)]

    def follow(self, order: Order) -> None:
        """Take another order for the epochs that come: the dataset has more rows or fewer."""
        self.first_rows = self.order.num_rows if self.first_rows is None else self.first_rows
        self.order, self._kept = order, None
        self.most_rows = self.epoch_rows

    def rows(self, epoch: int) -> np.ndarray:
        """Return all row indices in the order of an epoch; int64, shape (rows of the dataset,)."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, self.order.rows(epoch))
        return self._kept[1]

    def describe(self) -> dict[str, Any]:
        """Return what defines the order, as a checkpoint keeps it."""
        order = {name: value for name, value in vars(self.order).items() if name != "lengths"}
        began = {} if self.first_rows is None else {"first_rows": self.first_rows}
        return {**order, **asdict(self.batching), **began}
