"""Collecting the predictions of an evaluation on the host, in arrays that grow in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from trainwright.batch import is_one_for_each_row, map_tensors
from trainwright.errors import DataError
from trainwright.parallel.strategy import Strategy

_PADDING = -100
_WIDEN = 1.25
"""Room left when an array must become wider, so that ever longer rows are not copied again and again."""
Tree = Any
"""An array, or a tuple or dict of trees."""


class Rows:
    """An array that takes batch after batch without a copy of what it holds.

    The memory block is extended where it lies. Only when a batch is wider than all before (in the second dimension)
    is everything moved; shorter rows are filled with -100, or with 0 where their type has no such number. The type is
    that of all batches joined, as numpy.concatenate has it.
    """

    def __init__(self) -> None:
        self.array: np.ndarray | None = None
        self.width = 0
        self.sizes: list[int] = []
        self.widths: list[int] = []

    def add(self, batch: np.ndarray) -> None:
        """Append the rows of a batch; shape (rows, ...), or the one number that it has.

        Raises:
            DataError: its shape differs from that of earlier ones in more than the second dimension.
        """
        batch = np.atleast_1d(batch)
        self.sizes.append(len(batch))
        wide = batch.ndim > 1
        if self.array is None:
            self.array = np.empty((0, *batch.shape[1:]), dtype=batch.dtype)
        self._take_in(batch.dtype)
        if batch.shape[2:] != self.array.shape[2:] or batch.ndim != self.array.ndim:
            raise DataError(
                f"An output or label of shape {batch.shape} cannot be joined to those before, of shape "
                f"{self.array.shape}: batches may differ in the first two dimensions alone, of which the second is "
                "filled up. Let preprocess_logits_for_metrics give them one shape, or keep batches apart with "
                "eval_do_concat_batches=False."
            )
        if wide and batch.shape[1] > self.array.shape[1]:
            room = max(batch.shape[1], int(self.array.shape[1] * _WIDEN))
            wider = np.full((len(self.array), room, *self.array.shape[2:]), self._padding, dtype=self.array.dtype)
            wider[:, : self.array.shape[1]] = self.array
            self.array = wider
        start = len(self.array)
        self.array.resize((start + len(batch), *self.array.shape[1:]), refcheck=False)
        if wide:
            self.width = max(self.width, batch.shape[1])
            self.widths.append(batch.shape[1])
            self.array[start:, : batch.shape[1]] = batch
            self.array[start:, batch.shape[1] :] = self._padding
        else:
            self.array[start:] = batch

    def _take_in(self, kind: np.dtype[Any]) -> None:
        """Let the array hold numbers of another type too, filled as its own is."""
        assert self.array is not None
        before, kind = self._padding, np.result_type(self.array.dtype, kind)
        if kind == self.array.dtype:
            return
        self.array = self.array.astype(kind)
        if self._padding != before:
            ends = np.cumsum([0, *self.sizes])
            for start, end, width in zip(ends, ends[1:], self.widths, strict=False):
                self.array[start:end, width:] = self._padding

    @property
    def _padding(self) -> int:
        assert self.array is not None
        return _PADDING if self.array.dtype.kind in "ifc" else 0

    def all(self) -> np.ndarray:
        """Return what was added."""
        assert self.array is not None
        return self.array if self.array.ndim == 1 else self.array[:, : self.width]


@dataclass(frozen=True)
class Batches:
    """What the batches of a rank gave, one after another.

    Attributes:
        array: shape (rows of all batches, ...); a model may also give one number for a batch, or one for a token.
        ends: where each batch ends, shape (batches,).
    """

    array: np.ndarray
    ends: np.ndarray


class Collector:
    """Keeps the predictions, labels, inputs and losses of this rank's batches in host memory."""

    def __init__(self, join: bool, with_inputs: bool, with_losses: bool) -> None:
        optional = [name for name, wanted in (("inputs", with_inputs), ("losses", with_losses)) if wanted]
        self.join = join
        self.kept: dict[str, Tree] = dict.fromkeys(["predictions", "labels", *optional])
        self.batches: dict[str, list[Tree]] = {name: [] for name in self.kept}
        self.sizes: list[int] = []

    def add(self, loss: Any, logits: Any, labels: Any, inputs: Any, rows: int) -> None:
        """Keep one batch; one without rows (which only keeps this rank in step) is only noted."""
        self.sizes.append(rows)
        if rows == 0:
            return
        values = {"predictions": logits, "labels": labels, "inputs": inputs}
        if loss is not None and "losses" in self.kept:
            values["losses"] = losses_of_rows(loss, rows)
        for name in self.kept:
            batch = to_arrays(values.get(name), rows if self.join else None)
            if self.join:
                self.kept[name] = grown(self.kept[name], batch)
            elif batch is not None:
                self.batches[name].append(batch)

    def of_all_ranks(self, strategy: Strategy, order: np.ndarray | None = None) -> dict[str, Tree]:
        """Return everything of all shards of the data, None for what there is none of; batch j of shard s is batch
        j × shards + s.

        Args:
            strategy: gathers it.
            order: the rows in the order in which they were added; what has a value for each row is brought back into
                theirs, and what has another number of values for a batch stays batch by batch.
        """
        sizes, kept, batches = self.sizes, self.kept, self.batches
        if strategy.is_distributed:
            mine = (sizes, {name: sent(tree) for name, tree in kept.items()}, batches)
            everyone = strategy.gather_shards(mine)
            sizes = [size for turn in zip_longest(*(one[0] for one in everyone), fillvalue=0) for size in turn]
            kept = {name: joined(everyone, name) for name in kept}
            batches = {name: [one for one in in_turn(everyone, name, 2) if one is not None] for name in batches}
        if not self.join:
            return {name: batches[name] or None for name in batches}
        counts = [size for size in sizes if size]
        return {name: finished(tree, counts, order) for name, tree in kept.items()}


def losses_of_rows(loss: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the loss of every row of a batch, shape (rows,): the row's own where there is one for each, else the
    batch's."""
    return loss.reshape(rows) if loss.ndim and loss.numel() == rows else loss.mean().repeat(rows)


def joined(everyone: list[Any], name: str) -> Tree:
    """Return a tree of Rows of what all ranks kept under a name, batch by batch in turn."""
    whole: Tree = None
    for batch in in_turn(everyone, name, 1):
        whole = grown(whole, batch)
    return whole


def in_turn(everyone: list[Any], name: str, kept: int) -> list[Tree]:
    """Return the batches of all ranks in turn; None for one without rows."""
    per_rank = []
    for one in everyone:
        tree, places = one[kept][name], iter(range(len(one[0])))
        given = [None if size == 0 else next(places) for size in one[0]]
        per_rank.append([None if place is None else part(tree, place) for place in given])
    return [batch for turn in zip_longest(*per_rank) for batch in turn]


def part(tree: Tree, place: int) -> Tree:
    """Return what a batch gave, of what was sent; None for nothing."""
    if isinstance(tree, dict):
        return {name: part(branch, place) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(part(branch, place) for branch in tree)
    if isinstance(tree, list):
        return tree[place] if place < len(tree) else None
    if tree is None or place >= len(tree.ends):
        return None
    return tree.array[tree.ends[place - 1] if place else 0 : tree.ends[place]]


def grown(kept: Tree, batch: Tree) -> Tree:
    """Return a tree of Rows with a batch added to each; new ones where there were none."""
    if isinstance(batch, dict):
        return {name: grown(kept[name] if kept else None, branch) for name, branch in batch.items()}
    if isinstance(batch, tuple) and not isinstance(kept, Rows):
        return tuple(grown(kept[place] if kept else None, branch) for place, branch in enumerate(batch))
    if batch is None:
        return kept
    rows = Rows() if kept is None else listed(kept)
    rows.add(np.fromiter(batch, object, len(batch)) if isinstance(batch, tuple) else batch)
    return rows


def listed(kept: Tree) -> Rows:
    """Return Rows of objects for a tuple of Rows, whose items turn out to be one for each row."""
    if isinstance(kept, Rows):
        return kept
    rows, batches = Rows(), sent(kept)
    for place in range(len(kept[0].sizes)):
        rows.add(np.fromiter(part(batches, place), object, len(kept)))
    return rows


def sent(tree: Tree) -> Tree:
    """Return a tree of Batches for a tree of Rows."""
    if isinstance(tree, dict):
        return {name: sent(branch) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(sent(branch) for branch in tree)
    return None if tree is None else Batches(tree.all(), np.cumsum(tree.sizes))


def finished(tree: Tree, counts: list[int] | None = None, order: np.ndarray | None = None) -> Tree:
    """Return a tree of arrays for a tree of Rows, in the order of the rows where every batch gave one for each.

    Args:
        tree: of Rows.
        counts: rows of every batch, where they are to be brought into another order.
        order: the rows in the order in which they were added; None where that is their own.
    """
    if isinstance(tree, dict):
        return {name: finished(branch, counts, order) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(finished(branch, counts, order) for branch in tree)
    if tree is None:
        return None
    array = tree.all() if order is None or tree.sizes != counts else tree.all()[np.argsort(order)]
    return array.tolist() if array.dtype == object else array


def to_host(value: Tree) -> Tree:
    """Return tensors in host memory."""
    return map_tensors(value, lambda tensor: tensor.detach().cpu())


def to_arrays(value: Tree, rows: int | None = None) -> Tree:
    """Return tensors as numpy arrays in tuples and dicts; numpy has no bfloat16, so that becomes float32.

    Where a batch's rows are told, a list of one item for each of them becomes one array of objects.
    """
    if isinstance(value, Mapping):
        return {name: to_arrays(branch, rows) for name, branch in value.items()}
    if isinstance(value, list) and rows is not None and is_one_for_each_row(value, rows):
        return np.fromiter((one if isinstance(one, str) else to_arrays(one) for one in value), object, rows)
    if isinstance(value, list | tuple):
        return tuple(to_arrays(branch, rows) for branch in value)
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, np.ndarray | int | float) else None
    return (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
