"""Out of memory: cut micro-batches into smaller pieces, so that the step is the same in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trainwright.batch import is_one_for_each_row, record_of, row_count, with_fields
from trainwright.parallel.strategy import Strategy

_MESSAGES = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def passes_over(error: BaseException, strategy: Strategy) -> bool:
    """Whether what a process only tries out may fail of an error: memory runs out on one alone, and where all run the
    model together, the others would wait for it."""
    return not (strategy.shards_state and is_out_of_memory(error))


def split(batch: Any, pieces: int) -> list[Any]:
    """Return a batch cut along its rows into up to `pieces` batches; what has no rows goes into each of them."""
    rows = row_count(batch)
    size = -(-rows // pieces)
    return [_rows(batch, start, min(start + size, rows), rows) for start in range(0, rows, size)]


def _rows(value: Any, start: int, end: int, rows: int) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value[start:end] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, Mapping):
        parts = {name: _rows(item, start, end, rows) for name, item in value.items()}
        return parts if type(value) is dict else type(value)(parts)  # type: ignore[call-arg]  # mappings are made of dicts
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_rows(item, start, end, rows) for item in value))
    if isinstance(value, list | tuple):
        if is_one_for_each_row(value, rows):
            return value[start:end]
        return type(value)(_rows(item, start, end, rows) for item in value)
    if (record := record_of(value)) is not None:
        return with_fields(value, {name: _rows(item, start, end, rows) for name, item in record.items()})
    return value
