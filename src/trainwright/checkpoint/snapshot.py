"""Copies of a run's tensors in host memory, so that training can go on while they are written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch


class HostCopies:
    """Host memory for one snapshot at a time; the next one reuses it.

    Every storage is copied once, so tensors that share memory share it in the copy too. Copies from a device are only
    queued; `ready` waits for them.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._used = 0
        self._copied: dict[tuple[Any, int], torch.Tensor] = {}
        self._event: torch.cuda.Event | None = None

    def take(self, tree: Any) -> Any:
        """Return the tree of dicts, lists and tuples with every tensor copied, and other values deep-copied."""
        self._used = 0
        self._copied = {}
        copied = self._copy(tree)
        self._copied = {}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._event = torch.cuda.Event()
            self._event.record()
        return copied

    def ready(self) -> None:
        """Wait until the copies from a device have arrived."""
        if self._event is not None:
            self._event.synchronize()

    @property
    def size(self) -> int:
        """Bytes of the snapshot."""
        return sum(buffer.numel() for buffer in self._buffers[: self._used])

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, Mapping):
            return {key: self._copy(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copy(item) for item in value)
        return copy.deepcopy(value)

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        key = (tensor.device, storage.data_ptr())
        if key not in self._copied or storage.nbytes() == 0:
            source = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            buffer = self._buffer(source.numel(), pinned=tensor.is_cuda)
            self._copied[key] = buffer.copy_(source, non_blocking=True)
        host = torch.empty(0, dtype=tensor.dtype)
        return host.set_(self._copied[key].untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())

    def _buffer(self, size: int, pinned: bool) -> torch.Tensor:
        number, self._used = self._used, self._used + 1
        if number == len(self._buffers):
            self._buffers.append(torch.empty(0, dtype=torch.uint8))
        if self._buffers[number].numel() != size:
            self._buffers[number] = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return self._buffers[number]
