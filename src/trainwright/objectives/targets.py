"""Counting what a loss is a mean over: the targets of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trainwright.batch import IGNORED, by_name


def targets_of(batch: Any, label_names: Sequence[str], shifted: bool, ignored: int = IGNORED) -> torch.Tensor | None:
    """Return the mask of targets, or None where the labels are not token or class indices.

    Args:
        batch: the inputs of the model.
        label_names: the inputs that are labels; the first one that is there decides.
        shifted: whether position t is predicted from the positions before it, so that the first label is none.
        ignored: the label that is no target.

    Returns:
        A bool tensor shaped like the labels, less one position in the last dimension when shifted.
    """
    named = by_name(batch) or {}
    if "shift_labels" in named and isinstance(named["shift_labels"], torch.Tensor):
        return wanted(named["shift_labels"], ignored)
    there = [named[name] for name in label_names if named.get(name) is not None]
    labels = there[0] if there else None
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim == 0:
        return None
    return wanted(labels[..., 1:] if shifted and labels.ndim > 1 else labels, ignored)


def wanted(labels: torch.Tensor, ignored: int = IGNORED) -> torch.Tensor:
    """Return where labels are targets: everywhere, where their number format has no such number as is ignored."""
    if ignored < 0 and not labels.dtype.is_signed:
        return torch.ones_like(labels, dtype=torch.bool)
    return labels != ignored


def sums_of_rows(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return the sum of the values of every row, always in their order, in which a GPU's additions into one place are
    not; shape (count, ...).

    Args:
        values: one for every target, shape (targets, ...).
        rows: the row of every target, ascending, shape (targets,).
        count: how many rows there are, those without a target included.
    """
    lengths = torch.zeros(count, dtype=torch.int64, device=rows.device).index_add_(0, rows, torch.ones_like(rows))
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)  # safe is to wait for the lengths
