"""Batches as the user's code makes them: tensors, and containers of tensors of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label value that is no target, as torch's cross-entropy and every collator have it."""


def map_tensors(batch: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Return the batch with every tensor changed; containers keep their kind, other values stay."""
    if isinstance(batch, Mapping):
        changed = {name: map_tensors(value, change) for name, value in batch.items()}
        return changed if type(batch) is dict else type(batch)(changed)  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    return change(batch) if _is_tensor(batch) else batch


def row_count(batch: Any) -> int:
    """Return the number of rows of a batch: the first dimension of its first tensor; 1 where there is none."""
    if _is_tensor(batch):
        return int(batch.shape[0]) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    for part in parts:
        if (_is_tensor(part) and part.ndim) or isinstance(part, Mapping | list | tuple):
            return row_count(part)
    return 1


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
