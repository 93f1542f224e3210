"""Batches as the user's code makes them: tensors, and containers of tensors of any kind."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MAPPINGS = (dict, Mapping)
"""What is asked of every batch whether it is a mapping by: asking for a dict first takes a tenth."""
IGNORED = -100
"""The label value that is no target, as torch's cross-entropy and every collator have it."""


class MeanOver(Enum):
    """What a model's own loss is a mean over."""

    TARGETS = auto()
    ROWS = auto()
    NOTHING = auto()
    """It is a sum over its rows."""


def map_tensors(batch: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Return the batch with every tensor changed; containers keep their kind, other values stay."""
    if _is_tensor(batch):
        return change(batch)
    if isinstance(batch, MAPPINGS):
        changed = {name: map_tensors(value, change) for name, value in batch.items()}
        return changed if type(batch) is dict else type(batch)(changed)  # type: ignore[call-arg]  # mappings are made of dicts
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    if (record := record_of(batch)) is not None:
        return with_fields(batch, {name: map_tensors(value, change) for name, value in record.items()})
    return batch


def record_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of an instance of a dataclass or of a class of attrs, by name; None for anything else."""
    kind = type(value)
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    else:
        return None
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def with_fields(record: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of a record, which may be frozen, with other values in its fields."""
    changed = copy.copy(record)
    for name, item in values.items():
        object.__setattr__(changed, name, item)
    return changed


def by_name(value: Any) -> Mapping[str, Any] | None:
    """Return what a container holds by names: a mapping, a record, or a named tuple; None for anything else."""
    if isinstance(value, MAPPINGS):
        return value
    if isinstance(value, tuple):
        return dict(zip(value._fields, value, strict=True)) if hasattr(value, "_fields") else None
    return record_of(value)


def is_one_for_each_row(values: Any, rows: int) -> bool:
    """Whether a list or tuple holds an item for each row of its batch, and not some tensors of the whole batch."""
    if not isinstance(values, list | tuple) or len(values) != rows:
        return False
    if isinstance(values, list) and all(isinstance(one, Mapping) for one in values):
        return True  # as boxes and masks come
    return set(lengths_within(values)) != {rows}


def row_count(batch: Any) -> int:
    """Return the number of rows of a batch, of which 1 is the least that is known.

    It is the first dimension of the first tensor or array that the batch itself holds. Of those that lie deeper it is
    theirs where all have the same; else, and where there are only texts or numbers, the length of the first list.
    """
    if _has_rows(batch):
        return int(batch.shape[0])
    parts = list(batch.values()) if isinstance(batch, dict) else _parts(batch)
    for part in parts:
        if _has_rows(part):
            return int(part.shape[0])
    deep = list(lengths_within(parts))
    lists = [part for part in parts if isinstance(part, list | tuple)]
    if len(set(deep)) == 1:
        return deep[0]
    if lists or not deep:
        return max(len(lists[0]) if lists else len(parts) if isinstance(batch, list | tuple) else 1, 1)
    return deep[0]


def _parts(batch: Any) -> list[Any]:
    if isinstance(batch, list | tuple):
        return list(batch)
    named = by_name(batch)
    return [] if named is None else list(named.values())


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
    torch = sys.modules.get("torch")  # where nobody has imported it there is no tensor
    return torch is not None and isinstance(value, torch.Tensor)
