"""Whether labels are numbers or classes: decided over a dataset, for a batch may hold whole numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from trainwright.data.columns import LABELS


def has_float_labels(dataset: Any) -> bool:
    """Whether a label of a dataset is a float: by its declared features, or by its rows where they lie ready.

    No code of the user's runs: of a dataset of their own nothing is known before a batch.
    """
    if isinstance(dataset, Subset):
        return has_float_labels(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return any(map(has_float_labels, dataset.datasets))
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        if (getattr(dataset, "format", None) or {}).get("type") == "custom":
            return False  # a transform makes other rows
        kinds = [features[name] for name in LABELS if name in features]
        return any("float" in str(getattr(kind, "dtype", "")) for kind in map(_innermost, kinds))
    if type(dataset) not in (list, tuple):
        return False
    rows = (row for row in dataset if isinstance(row, Mapping))
    return any(is_float(row[name]) for row in rows for name in LABELS if name in row)


def is_float(value: Any) -> bool:
    """Whether a label, or one of several, is a float."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    if isinstance(value, np.ndarray | np.generic):
        return bool(np.issubdtype(value.dtype, np.floating))
    if isinstance(value, list | tuple):
        return any(is_float(one) for one in value)
    return isinstance(value, float)


def as_floats(batch: Any) -> Any:
    """Return a batch whose `labels` are floats, where it has any."""
    labels = batch.get("labels") if hasattr(batch, "get") else None
    if isinstance(labels, torch.Tensor) and not labels.is_floating_point():
        batch["labels"] = labels.float()
    return batch


def _innermost(feature: Any) -> Any:
    while hasattr(feature, "feature"):
        feature = feature.feature
    return feature
