"""What kind of data a dataset or loader is."""

from __future__ import annotations

from typing import Any


def length_of(data: Any) -> int | None:
    """Return the length of a dataset or loader, or None where it has none."""
    try:
        return len(data)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def is_stream(dataset: Any) -> bool:
    """Whether a dataset is read in its own order: an IterableDataset, or an iterable without `__getitem__`."""
    from torch.utils.data import IterableDataset

    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
