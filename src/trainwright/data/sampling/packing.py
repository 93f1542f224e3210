"""Packing: several documents in one row, so that no token of a batch is padding.

Documents are packed within groups of 1,000 rows, in their order, as TRL does: the result is the same, and a stream is
packed like a dataset.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.bars import counting
from trainwright.batch import IGNORED
from trainwright.data.contents import FIRST, Contents

GROUP = 1000
_PIECES = 10_000  # of cut documents, whose labels are counted for the card of a run
Piece = tuple[int, int, int]  # row, first token, end


def best_fit(lengths: Sequence[int], capacity: int, split: bool = False) -> list[list[Piece]]:
    """Return bins of at most `capacity` tokens: the longest documents first, each into the fullest bin that has room.

    Best-fit decreasing (Johnson 1974); among bins of equal room the oldest is taken.

    Args:
        lengths: tokens of every document.
        capacity: tokens of a bin.
        split: cut longer documents into several; otherwise their end is left out.

    Returns:
        For every bin its documents as (row, first token, end).
    """
    pieces: list[Piece] = []
    for row, length in enumerate(lengths):
        ends = range(capacity, int(length) + capacity, capacity) if split else [capacity]
        pieces += [(row, end - capacity, min(end, int(length))) for end in ends if length > 0]
    order = np.argsort([start - end for _, start, end in pieces], kind="stable")
    bins: list[list[Piece]] = []
    rooms: list[int] = []  # different rooms of open bins, sorted
    by_room: dict[int, deque[int]] = {}
    for number in order:
        piece = pieces[number]
        size = piece[2] - piece[1]
        at = bisect_left(rooms, size)
        if at == len(rooms):
            bins.append([])
            target, room = len(bins) - 1, capacity
        else:
            room = rooms[at]
            target = by_room[room].popleft()
            if not by_room[room]:
                rooms.pop(at)
        bins[target].append(piece)
        if room > size:
            left = by_room.setdefault(room - size, deque())
            if not left:
                insort(rooms, room - size)
            left.append(target)
    return bins


def wrapped(lengths: Sequence[int], capacity: int) -> list[list[Piece]]:
    """Return the documents one after another, cut every `capacity` tokens; the last row may be shorter."""
    bins: list[list[Piece]] = []
    room = 0
    for row, length in enumerate(lengths):
        start = 0
        while start < length:
            if room == 0:
                bins.append([])
                room = capacity
            end = min(int(length), start + room)
            bins[-1].append((row, start, end))
            room -= end - start
            start = end
    return bins


def packer(strategy: str, capacity: int) -> Callable[[Sequence[int]], list[list[Piece]]]:
    """Return the function that packs one group of lengths by a strategy: bfd, bfd_split or wrapped."""
    if strategy == "wrapped":
        return lambda lengths: wrapped(lengths, capacity)
    return lambda lengths: best_fit(lengths, capacity, split=strategy == "bfd_split")


def join(
    pieces: Sequence[Piece], cut: Callable[[int, int, int], dict[str, torch.Tensor]], apart: bool
) -> dict[str, Any]:
    """Return a packed row: the documents' columns joined, and with `apart` the length of each in `seq_lengths`.

    Args:
        pieces: of documents.
        cut: gives the columns of one piece, and reads no more than that.
        apart: whether documents are kept apart.
    """
    parts = [cut(*piece) for piece in pieces]
    joined: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if apart:
        joined["seq_lengths"] = [end - start for _, start, end in pieces]
    return joined


class PackedRows(Dataset[Any]):
    """Rows of tokens, packed.

    Args:
        rows: documents with `lengths`, and `cut` for a piece of one.
        strategy: bfd, bfd_split or wrapped.
        capacity: tokens of a packed row.
    """

    def __init__(self, rows: Any, strategy: str, capacity: int) -> None:
        self.rows = rows
        self.apart = strategy != "wrapped"
        self._cuts = strategy == "bfd"
        self._capacity = capacity
        pack, lengths = packer(strategy, capacity), np.asarray(rows.lengths)
        self.bins: list[list[Piece]] = []
        with counting(len(lengths), "rows packed") as tell:
            for start in range(0, len(lengths), GROUP):
                bins = pack(lengths[start : start + GROUP].tolist())
                self.bins += [[(row + start, first, end) for row, first, end in packed] for packed in bins]
                tell(GROUP)

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row: input_ids and labels of shape (tokens,), and seq_lengths where documents are kept apart."""
        return join(self.bins[index], self.rows.cut, self.apart)

    def documents(self, index: int) -> list[dict[str, torch.Tensor]]:
        """Return the documents of a packed row, each as its own row."""
        return [self.rows.cut(*piece) for piece in self.bins[index]]

    @property
    def contents(self) -> Contents:
        """What the packed rows hold; the first ones where that would need a pass over the labels."""
        known: Contents = self.rows.contents or Contents()
        over = int((np.asarray(self.rows.lengths) > self._capacity).sum()) if self._cuts else 0
        cut = known.cut and (over, known.cut[1])
        whole = replace(known, rows=len(self), tokens=int(self.lengths.sum()), cut=cut)
        learned = self._learned()
        if learned is not None:
            return replace(whole, learned=learned)
        some = [self[number] for number in range(min(FIRST, len(self)))]
        counts = [int(self.lengths[: len(some)].sum()), sum(_targets(row) for row in some)]
        counted = None if len(some) == len(self) else len(some)
        return replace(whole, tokens=counts[0], learned=counts[1], counted=counted)

    def _learned(self) -> int | None:
        """Return the targets of all rows, from what is known of every document; None where that is not enough."""
        row, start, end = np.array([piece for packed in self.bins for piece in packed], dtype=np.int64).T
        lengths, learned = np.asarray(self.rows.lengths), self.rows.learned
        if learned is None:
            return None
        if (learned == (lengths - 1).clip(0)).all():
            return int((end - start - 1).sum()) if self.apart else int((end - start).sum()) - len(self)
        is_whole = end - start == lengths[row]
        pieces = np.flatnonzero(~is_whole)
        if not self.apart or len(pieces) > _PIECES:
            return None
        labels = (self.rows.column("labels", row[one])[start[one] + 1 : end[one]] for one in pieces)
        return int(learned[row[is_whole]].sum()) + sum(int((one != IGNORED).sum()) for one in labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every packed row; int64, shape (rows,)."""
        return np.array([sum(end - start for _, start, end in packed) for packed in self.bins], dtype=np.int64)


def _targets(row: dict[str, Any]) -> int:
    """Return the targets of a packed row: labels but for the first of the row, and of every document kept apart."""
    firsts = np.cumsum([0, *row.get("seq_lengths", [])[:-1]])
    wanted = row["labels"].numpy() != IGNORED
    wanted[firsts] = False
    return int(wanted.sum())
