"""Rows of tokens as they lie in Arrow's memory-mapped files, whole: a row is a slice, cut where it is read, and all
lengths are known at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.batch import IGNORED
from trainwright.data.contents import Contents

ROW_COLUMNS = ("input_ids", "labels")
BEFORE: Mapping[str, str | None] = {"input_ids": None, "labels": None}


class TokenRows(Dataset[Any]):
    """Rows of token columns.

    Args:
        table: a `datasets.Dataset` with columns of int lists.
        columns: the columns that a row has.
        kept: numbers of the rows of the table that are used, in order; all when not given.
        limit: tokens of the longest row; the end of a longer one is left out.
        before: the columns that `limit` cuts, and for each the column that stands before it, if any.

    Attributes:
        kept: where these rows lie in Arrow's table.
    """

    def __init__(
        self,
        table: Any,
        columns: tuple[str, ...] = ROW_COLUMNS,
        kept: np.ndarray | None = None,
        *,
        limit: int | None = None,
        before: Mapping[str, str | None] = BEFORE,
    ) -> None:
        self.table = table
        self.columns = columns
        self.limit = limit
        self.before = before if limit is not None else {}
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
        """Return a row: every column as an int64 tensor of shape (tokens,), of other numbers a float64 one."""
        return self.cut(index)

    def cut(self, index: int, start: int = 0, end: int | None = None) -> dict[str, torch.Tensor]:
        """Return a row from its token `start` up to `end`; no more of it is read."""
        columns = {name: self.column(name, index)[start:end] for name in self.columns}
        wide = {name: np.float64 if column.dtype.kind == "f" else np.int64 for name, column in columns.items()}
        return {name: torch.from_numpy(column.astype(wide[name])) for name, column in columns.items()}

    def column(self, name: str, index: int) -> np.ndarray:
        """Return one column of a row; a view of shape (tokens,)."""
        found = self.whole(name, index)
        if name in self.before:
            first = self.before[name]
            return found[: max(0, (self.limit or 0) - (len(self.column(first, index)) if first else 0))]
        return found

    def whole(self, name: str, index: int) -> np.ndarray:
        """Return one column of a row as it was before `limit` cut it; a view of shape (tokens,)."""
        parts, row = self._views()[name], self.kept[index]
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        values, offsets = parts[part]
        place = row - self._starts[part]
        return values[int(offsets[place]) : int(offsets[place + 1])]

    def values(self, name: str) -> np.ndarray:
        """Return a column that holds one value in every row, shape (rows,)."""
        found: np.ndarray = np.concatenate([values[offsets[:-1]] for values, offsets in self._views()[name]])[self.kept]
        return found

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row, all columns of tokens (`*_ids`) together; int64, shape (rows,)."""
        lengths: np.ndarray = np.sum([self.sizes(name) for name in self.columns if name.endswith("_ids")], axis=0)
        return lengths

    def sizes(self, name: str) -> np.ndarray:
        """Return how many values a column has in every row; int64, shape (rows,)."""
        whole = self._whole(name)
        return np.minimum(whole, self._room(name)) if name in self.before else whole

    @property
    def cut_off(self) -> np.ndarray:
        """Tokens of every row that `limit` leaves out, of several answers with each; int64, shape (rows,)."""
        ends = [name for name in self.before if name != "labels" and name not in self.before.values()]
        over = [(self._whole(name) - self._room(name)).clip(0) for name in ends]
        firsts = [(self._whole(first) - (self.limit or 0)).clip(0) for first in map(self.before.get, ends) if first]
        cut: np.ndarray = np.sum([np.zeros(len(self), dtype=np.int64), *over, *firsts], axis=0)
        return cut

    def _room(self, name: str) -> np.ndarray:
        """Return how many values of a column `limit` leaves in every row; int64, shape (rows,)."""
        first = self.before[name]
        taken = self.sizes(first) if first else np.zeros(len(self), dtype=np.int64)
        room: np.ndarray = (self.limit or 0) - taken
        return room

    def _whole(self, name: str) -> np.ndarray:
        """Return how many values of a column lie in every row; int64, shape (rows,)."""
        sizes: np.ndarray = np.concatenate([np.diff(offsets) for _, offsets in self._views()[name]])[self.kept]
        return sizes

    def targets(self, name: str) -> np.ndarray:
        """Number of values of a column that are not -100, without the first of each row, which nothing predicts; int64,
        shape (rows,)."""
        found = []
        for values, offsets in self._views()[name]:
            seen = np.concatenate([[0], np.cumsum(values != IGNORED)])
            starts, ends = offsets[:-1], offsets[1:]
            if name in self.before:
                ends = np.minimum(ends, starts + (self.limit or 0))
            found.append(seen[ends] - seen[np.minimum(starts + 1, ends)])
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
