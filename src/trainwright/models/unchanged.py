"""Calling a model for the engine's own ends, so that nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainwright import randomness


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back what the body, which calls a model, draws and changes: streams of random numbers, those that the model
    holds itself, and buffers."""
    streams, own = randomness.Streams().state_dict(), randomness.own_states(model)
    with unchanged_buffers(model):
        try:
            yield
        finally:
            randomness.restore(streams)
            randomness.restore_own(own, model)


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Put back the buffers that the body changes, in place or by others."""
    kept: list[Any] = [(m._buffers, name, b, _copied(b)) for m in model.modules() for name, b in m._buffers.items()]
    try:
        yield
    finally:
        for buffers, name, buffer, copy in kept:
            buffers[name] = buffer
            if copy is not None and not torch.equal(buffer, copy):
                with torch.no_grad():
                    buffer.copy_(copy)


def _copied(buffer: Any) -> Any:
    return buffer.clone() if isinstance(buffer, torch.Tensor) and buffer.layout is torch.strided else None
