"""Collecting the predictions of an evaluation on the host, in arrays that grow in place."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from trainwright.batch import map_tensors

_PADDING = -100
_WIDEN = 1.25
"""Room left when an array must become wider, so that ever longer rows are not copied again and again."""
Tree = Any
"""An array, or a tuple or dict of trees."""


class Rows:
    """An array that takes batch after batch without a copy of what it holds.

    The memory block is extended where it lies. Only when a batch is wider than all before (in the second dimension)
    is everything moved; shorter rows are filled with -100, or with 0 where their type has no such number.
    """

    def __init__(self) -> None:
        self.array: np.ndarray | None = None
        self.width = 0

    def add(self, batch: np.ndarray) -> None:
        """Append the rows of a batch; shape (rows, ...)."""
        batch = np.atleast_1d(batch)
        wide = batch.ndim > 1
        if self.array is None:
            self.array = np.empty((0, *batch.shape[1:]), dtype=batch.dtype)
        if wide and batch.shape[1] > self.array.shape[1]:
            room = max(batch.shape[1], int(self.array.shape[1] * _WIDEN))
            wider = np.full((len(self.array), room, *self.array.shape[2:]), self._padding, dtype=self.array.dtype)
            wider[:, : self.array.shape[1]] = self.array
            self.array = wider
        start = len(self.array)
        self.array.resize((start + len(batch), *self.array.shape[1:]), refcheck=False)
        if wide:
            self.width = max(self.width, batch.shape[1])
            self.array[start:, : batch.shape[1]] = batch
            self.array[start:, batch.shape[1] :] = self._padding
        else:
            self.array[start:] = batch

    @property
    def _padding(self) -> int:
        assert self.array is not None
        return _PADDING if self.array.dtype.kind in "ifc" else 0

    def all(self) -> np.ndarray | None:
        """Return what was added."""
        return self.array if self.array is None or self.array.ndim == 1 else self.array[:, : self.width]


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
            values["losses"] = loss.reshape(1).repeat(rows)
        for name in self.kept:
            batch = to_arrays(values.get(name))
            if self.join:
                self.kept[name] = grown(self.kept[name], batch)
            elif batch is not None:
                self.batches[name].append(batch)

    def of_all_ranks(self, gather: Any, ranks: int) -> dict[str, Tree]:
        """Return everything in the order of the rows; batch j of rank r is batch j × ranks + r of all."""
        if ranks == 1:
            return {name: finished(self.kept[name]) if self.join else self.batches[name] for name in self.kept}
        everyone = gather((self.sizes, {name: finished(tree) for name, tree in self.kept.items()}, self.batches))
        return {name: in_order(everyone, name, self.join) for name in self.kept}


def in_order(everyone: list[Any], name: str, join: bool) -> Tree:
    """Return one kept value of all ranks, batch by batch in turn."""
    per_rank = [
        split(kept[name], sizes) if join else interrupted(batches[name], sizes) for sizes, kept, batches in everyone
    ]
    turns = [batch for turn in zip_longest(*per_rank) for batch in turn if batch is not None]
    if not join:
        return turns
    whole: Tree = None
    for batch in turns:
        whole = grown(whole, batch)
    return finished(whole)


def split(tree: Tree, sizes: list[int]) -> list[Tree]:
    """Cut a tree of arrays into batches of the given sizes; None for a batch without rows."""
    ends = np.cumsum(sizes)
    return [None if size == 0 else part(tree, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def interrupted(batches: list[Tree], sizes: list[int]) -> list[Tree]:
    """Return batches with None where one had no rows."""
    left = iter(batches)
    return [None if size == 0 else next(left, None) for size in sizes]


def part(tree: Tree, start: int, end: int) -> Tree:
    """Return rows of every array of a tree."""
    if isinstance(tree, dict):
        return {name: part(branch, start, end) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(part(branch, start, end) for branch in tree)
    return None if tree is None else tree[start:end]


def reordered(tree: Tree, rows: np.ndarray | None) -> Tree:
    """Return arrays in the order of the rows, which were added in the order `rows`."""
    if tree is None or rows is None:
        return tree
    if isinstance(tree, dict):
        return {name: reordered(branch, rows) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(reordered(branch, rows) for branch in tree)
    return tree[np.argsort(rows)]


def grown(kept: Tree, batch: Tree) -> Tree:
    """Return a tree of Rows with a batch added to each; new ones where there were none."""
    if isinstance(batch, dict):
        return {name: grown(kept[name] if kept else None, branch) for name, branch in batch.items()}
    if isinstance(batch, tuple):
        return tuple(grown(kept[place] if kept else None, branch) for place, branch in enumerate(batch))
    if batch is None:
        return kept
    rows = Rows() if kept is None else kept
    rows.add(batch)
    return rows


def finished(tree: Tree) -> Tree:
    """Return a tree of arrays for a tree of Rows."""
    if isinstance(tree, dict):
        return {name: finished(branch) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(finished(branch) for branch in tree)
    return None if tree is None else tree.all()


def to_host(value: Tree) -> Tree:
    """Return tensors in host memory."""
    return map_tensors(value, lambda tensor: tensor.detach().cpu())


def to_arrays(value: Tree) -> Tree:
    """Return tensors as numpy arrays in tuples and dicts; numpy has no bfloat16, so that becomes float32."""
    if isinstance(value, Mapping):
        return {name: to_arrays(branch) for name, branch in value.items()}
    if isinstance(value, list | tuple):
        return tuple(to_arrays(branch) for branch in value)
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, np.ndarray | int | float) else None
    return (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
