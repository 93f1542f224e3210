"""Rows of tokens as they lie in Arrow's memory-mapped files: a row is a slice, and all lengths are known at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.batch import IGNORED
from trainwright.data.contents import Contents

ROW_COLUMNS = ("input_ids", "labels")


class TokenRows(Dataset[Any]):
    """Rows of token columns.

    Args:
        table: a `datasets.Dataset` with columns of int lists.
        columns: the columns that a row has.
        kept: numbers of the rows of the table that are used, in order; all when not given.

    Attributes:
        kept: where these rows lie in Arrow's table.
    """

    def __init__(self, table: Any, columns: tuple[str, ...] = ROW_COLUMNS, kept: np.ndarray | None = None) -> None:
        self.table = table
        self.columns = columns
        places = places_of(table)
        self.kept = places if kept is None else places[kept]
        self._parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] | None = None
        self._starts = np.zeros(1, dtype=np.int64)
        self._learned: np.ndarray | None = None
        self._contents: Contents | None = None

    def know(self, learned: np.ndarray, cut: int, part: str) -> None:
        """Keep what is learned of every row, how many rows of the table were cut, and in words which tokens are
        learned."""
        self._learned = learned
        counts = int(self.lengths.sum()), int(learned.sum())
        self._contents = Contents(len(self), *counts, cut=(cut, len(self.table)), part=part)

    @property
    def learned(self) -> np.ndarray | None:
        """Targets of every row; int64, shape (rows,). None where they were not counted."""
        return self._learned

    @property
    def contents(self) -> Contents | None:
        """What the rows hold; None where they were not counted."""
        return self._contents

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return a row: every column as an int64 tensor of shape (tokens,)."""
        return self.cut(index)

    def cut(self, index: int, start: int = 0, end: int | None = None) -> dict[str, torch.Tensor]:
        """Return a row from its token `start` up to `end`; no more of it is read."""
        return {name: torch.from_numpy(self.column(name, index)[start:end].astype(np.int64)) for name in self.columns}

    def column(self, name: str, index: int) -> np.ndarray:
        """Return one column of a row; a view of shape (tokens,)."""
        parts, row = self._views()[name], self.kept[index]
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        values, offsets = parts[part]
        place = row - self._starts[part]
        return values[offsets[place] : offsets[place + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row, all columns of tokens (`*_ids`) together; int64, shape (rows,)."""
        counted = [name for name in self.columns if name.endswith("_ids")]
        views = self._views()
        every: Any = sum(np.concatenate([np.diff(offsets) for _, offsets in views[name]]) for name in counted)
        lengths: np.ndarray = every[self.kept]
        return lengths

    def targets(self, name: str) -> np.ndarray:
        """Number of values of a column that are not -100, without the first of each row, which nothing predicts; int64,
        shape (rows,)."""
        found = []
        for values, offsets in self._views()[name]:
            seen = np.concatenate([[0], np.cumsum(values != IGNORED)])
            found.append(seen[offsets[1:]] - seen[np.minimum(offsets[:-1] + 1, offsets[1:])])
        counts: np.ndarray = np.concatenate(found)[self.kept]
        return counts

    def _views(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        if self._parts is None:
            arrow = self.table.data
            self._parts = {name: [_view(chunk) for chunk in arrow.column(name).chunks] for name in self.columns}
            rows = [len(offsets) - 1 for _, offsets in self._parts[self.columns[0]]]
            self._starts = np.concatenate([[0], np.cumsum(rows)])[:-1] if rows else self._starts
        return self._parts

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None, "_learned": None}


def places_of(table: Any) -> np.ndarray:
    """Return where the rows of a `datasets.Dataset` lie in its Arrow table; int64, shape (rows,)."""
    order = table._indices
    return np.arange(len(table)) if order is None else order.column(0).to_numpy().astype(np.int64)


def _view(chunk: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (values, offsets) of a chunk of Arrow lists, without copying the values."""
    return chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
