"""Number formats: the autocast context of the forward pass, and the loss scaler that float16 needs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


class Precision:
    """float32, or bfloat16 by autocast."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device = device
        self.dtype = dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which losses are computed."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        loss.backward()

    def clip(self, optimizer: Any, parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
        """Scale the gradients down to a norm, if it is above 0, and return the norm before."""
        return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else float("inf"))

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Update the parameters; return whether it was done, which only a loss scaler may refuse."""
        optimizer.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Float16(Precision):
    """float16 by autocast, with gradients scaled so that small ones survive (Micikevicius et al. 2018)."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, torch.float16)
        self.scaler = torch.amp.GradScaler(device.type)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a scaled loss."""
        self.scaler.scale(loss).backward()

    def clip(self, optimizer: Any, parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
        """Undo the scaling, then clip."""
        self.scaler.unscale_(optimizer)
        return super().clip(optimizer, parameters, max_norm)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Update the parameters unless the scaled gradients overflowed."""
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its growth."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scale and its growth."""
        if state:
            self.scaler.load_state_dict(state)


def choose_precision(device: torch.device, bf16: bool, fp16: bool) -> Precision:
    """Return the number formats for a device; float16 needs a GPU, a CPU computes in float32 instead."""
    if bf16:
        return Precision(device, torch.bfloat16)
    if fp16 and device.type != "cpu":
        return Float16(device)
    return Precision(device, None)
