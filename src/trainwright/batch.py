"""Batches as the user's code makes them: tensors, and containers of tensors of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label value that is no target, as torch's cross-entropy and every collator have it."""


def map_tensors(batch: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Return the batch with every tensor changed; containers keep their kind, other values stay."""
    if isinstance(batch, Mapping):
        changed = {name: map_tensors(value, change) for name, value in batch.items()}
        return changed if type(batch) is dict else type(batch)(changed)  # type: ignore[call-arg]  # mappings are made of dicts
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    return change(batch) if _is_tensor(batch) else batch


def row_count(batch: Any) -> int:
    """Return the number of rows of a batch, of which 1 is the least that is known.

    It is the first dimension of the first tensor or array that the batch itself holds. Of those that lie deeper it is
    theirs where all have the same; else, and where there are only texts or numbers, the length of the first list.
    """
    if _has_rows(batch):
        return int(batch.shape[0])
    parts = _parts(batch)
    if (first := next(filter(_has_rows, parts), None)) is not None:
        return int(first.shape[0])
    deep = list(lengths_within(parts))
    lists = [part for part in parts if isinstance(part, list | tuple)]
    if len(set(deep)) == 1:
        return deep[0]
    if lists or not deep:
        return max(len(lists[0]) if lists else len(parts) if isinstance(batch, list | tuple) else 1, 1)
    return deep[0]


def _parts(batch: Any) -> list[Any]:
    return list(batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ())


def lengths_within(value: Any) -> Iterator[int]:
    """Yield the first dimension of every tensor and array, however deep."""
    if _has_rows(value):
        yield int(value.shape[0])
    for part in _parts(value):
        yield from lengths_within(part)


def _has_rows(value: Any) -> bool:
    shape = getattr(value, "shape", None)  # of a tensor or an array of numpy's
    return isinstance(shape, tuple) and len(shape) > 0


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
