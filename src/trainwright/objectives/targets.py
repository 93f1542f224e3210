"""Counting what a loss is a mean over: the targets of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainwright.batch import IGNORED, row_count


def targets_of(batch: Any, label_names: Sequence[str], shifted: bool) -> torch.Tensor | None:
    """Return the mask of targets, or None where the labels are not token or class indices.

    Args:
        batch: the inputs of the model.
        label_names: the inputs that are labels; the first one that is there decides.
        shifted: whether position t is predicted from the positions before it, so that the first label is none.

    Returns:
        A bool tensor shaped like the labels, less one position in the last dimension when shifted.
    """
    if not isinstance(batch, Mapping):
        return None
    if isinstance(batch.get("shift_labels"), torch.Tensor):
        shifted_labels: torch.Tensor = batch["shift_labels"]
        return shifted_labels != IGNORED
    labels = next((batch[name] for name in label_names if batch.get(name) is not None), None)
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim == 0:
        return None
    return (labels[..., 1:] if shifted and labels.ndim > 1 else labels) != IGNORED


def count_targets(batch: Any, label_names: Sequence[str], shifted: bool) -> int:
    """Return the number of targets of a batch; its rows where the labels are not indices."""
    targets = targets_of(batch, label_names, shifted)
    return row_count(batch) if targets is None else int(targets.sum())
