"""Copies of a run's tensors in host memory, so that training can go on while they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from trainwright.devices import queued

_PIECE, _PIECE_ON_CPU = 1 << 22, 1 << 16  # numbers that are marked at once; on a CPU as many as its cache holds
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def size_of(tree: Any) -> int:
    """Return the bytes of the storages in a tree of dicts, lists and tuples; each storage counts once."""
    tensors = [tensor for tensor in tensors_in(tree) if tensor.layout is torch.strided]  # sparse ones have no storage
    return sum({memory_of(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def memory_of(tensor: torch.Tensor) -> tuple[torch.device, int]:
    """Return what tensors have in common that share memory."""
    return tensor.device, tensor.untyped_storage().data_ptr()


def without_lazy_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose memory is its values: torch conjugates and negates by a bit that is beside the memory."""
    return tensor.resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a tree of dicts, lists and tuples."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors_in(item)


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's whole storage as bytes, in the same memory."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def mark(value: Any) -> Any:
    """Return what is another when the content of a tree is: of a tensor, the sum of its bits as whole numbers, each
    times its place, which is exact and the same on every device.

    A tensor of a special kind is never the same, nor is one without content (of which another process has that).
    """
    if isinstance(value, torch.Tensor):
        plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided
        if not plain or value.is_meta:
            return object()
        bits = without_lazy_bits(value.detach())
        bits = torch.view_as_real(bits) if bits.is_complex() else bits
        return value.shape, value.dtype, _sum_of_bits(bits)
    if isinstance(value, dict):
        return {key: mark(item) for key, item in value.items()}
    return [mark(item) for item in value] if isinstance(value, list | tuple) else repr(value)


def _sum_of_bits(tensor: torch.Tensor) -> int:
    """Return it modulo 2^64, in pieces that take little memory; half of each number is mixed into the other, so that
    changed signs do not cancel."""
    size = tensor.element_size()
    numbers = tensor.reshape(-1).view(_WHOLE[size])
    most = _PIECE_ON_CPU if tensor.device.type == "cpu" else _PIECE
    places = 2 * torch.arange(min(most, len(numbers)), device=tensor.device) + 1  # odd, so that no bit is lost
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(numbers), most):
        piece = numbers[start : start + most]
        mixed = piece ^ (piece >> 4 * size - 1)
        total += (mixed * places[: len(piece)]).sum() + 2 * start * mixed.sum(dtype=torch.int64)
    return int(total)


class HostCopies:
    """Host memory for one snapshot at a time; the next one reuses it.

    Every storage is copied once, so tensors that share memory share it in the copy too. Copies from a device are only
    queued; `ready` waits for them.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._used = 0
        self._copied: dict[tuple[Any, int], torch.Tensor] = {}
        self._alive: list[torch.Tensor] = []
        self._events: list[torch.Event] = []

    def take(self, tree: Any) -> Any:
        """Return a tree of dicts, lists and tuples with every tensor copied; other values are its own."""
        self._used = 0
        self._copied, self._alive = {}, []
        copied = self._copy(tree)
        self._events = [queued(device) for device in {device for device, _ in self._copied} if device.type != "cpu"]
        self._copied, self._alive = {}, []
        return copied

    def ready(self) -> None:
        """Wait until the copies from a device have arrived."""
        for event in self._events:
            event.synchronize()

    def release(self) -> None:
        """Give the memory back."""
        self._buffers, self._copied, self._alive, self._events = [], {}, [], []

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            return type(value)({key: self._copy(item) for key, item in value.items()})
        if type(value) in (list, tuple):
            return type(value)(self._copy(item) for item in value)
        return value

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_meta:  # it stands for one that lies elsewhere
            return tensor
        if tensor.layout is not torch.strided:  # rare, so the loop may wait
            return tensor.detach().to("cpu", copy=True)
        tensor = without_lazy_bits(tensor.detach())
        self._alive.append(tensor)  # its memory is nobody else's while `_copied` tells tensors apart by it
        key = memory_of(tensor)
        if key not in self._copied or tensor.untyped_storage().nbytes() == 0:
            source = bytes_of(tensor)
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
