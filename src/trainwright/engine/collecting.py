"""Collecting the predictions of an evaluation on the host: kept batch by batch, joined once at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trainwright.batch import map_tensors

_PADDING = -100
Tree = Any
"""An array, or a tuple, list or dict of trees."""


class Collector:
    """Keeps the predictions, labels, inputs and losses of this rank's batches in host memory."""

    def __init__(self, with_inputs: bool, with_losses: bool) -> None:
        self.kept: dict[str, list[Tree]] = {"predictions": [], "labels": []}
        if with_inputs:
            self.kept["inputs"] = []
        if with_losses:
            self.kept["losses"] = []

    def add(self, weightless: bool, loss: Any, logits: Any, labels: Any, inputs: Any, rows: int) -> None:
        """Keep one batch; None in place of one that weighs nothing."""
        values = {"predictions": logits, "labels": labels, "inputs": inputs}
        if loss is not None and "losses" in self.kept:
            values["losses"] = loss.reshape(1).repeat(rows)
        for name, batches in self.kept.items():
            batches.append(None if weightless else to_arrays(values.get(name)))

    def parts(self) -> dict[str, list[Tree]]:
        """Hand over what was kept."""
        kept, self.kept = self.kept, {}
        return kept


def to_host(value: Tree) -> Tree:
    """Return tensors in host memory."""
    return map_tensors(value, lambda tensor: tensor.detach().cpu())


def to_arrays(value: Tree) -> Tree:
    """Return tensors as numpy arrays in tuples and dicts; numpy has no bfloat16, so that becomes float32."""
    if isinstance(value, Mapping):
        return {name: to_arrays(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(to_arrays(part) for part in value)
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, np.ndarray | int | float) else None
    return (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()


def interleave(ranks: list[dict[str, list[Tree]]], join: bool) -> dict[str, Tree]:
    """Put the ranks' batches back into the order of the rows, and join them.

    Args:
        ranks: for every rank, its batches by name; batch j of rank r is batch j × ranks + r of all.
        join: whether to return one array instead of a list of batches.
    """
    ordered: dict[str, Tree] = {}
    for name in ranks[0]:
        turns = zip(*(rank[name] for rank in ranks), strict=True)
        batches = [batch for turn in turns for batch in turn if batch is not None]
        for rank in ranks:
            rank[name] = []
        ordered[name] = (join_batches(batches) if join else batches) if batches else None
    return ordered


def join_batches(batches: list[Tree]) -> Tree:
    """Return batches joined along the first dimension; where the second differs, shorter ones are filled with -100.

    The list is emptied on the way, so that memory holds little more than the result.
    """
    first = batches[0]
    if isinstance(first, dict):
        return {name: join_batches([batch[name] for batch in batches]) for name in first}
    if isinstance(first, tuple):
        return tuple(join_batches([batch[place] for batch in batches]) for place in range(len(first)))
    if first is None:
        return None
    arrays = [np.atleast_1d(batch) for batch in batches]
    batches.clear()
    return _joined(arrays)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    rows = sum(len(array) for array in arrays)
    width = max((array.shape[1] for array in arrays if array.ndim > 1), default=None)
    shape = (rows, *(() if width is None else (width,)), *arrays[0].shape[2:])
    out = np.empty(shape, dtype=arrays[0].dtype)
    start = 0
    arrays.reverse()
    while arrays:
        array = arrays.pop()
        part = out[start : start + len(array)]
        if width is None:
            part[...] = array
        else:
            part[:, : array.shape[1]] = array
            part[:, array.shape[1] :] = _PADDING
        start += len(array)
    return out
