"""By what gradients that are too long are multiplied."""

from __future__ import annotations

import ctypes

import torch


def clip_factor(norm: torch.Tensor, max_norm: float) -> torch.Tensor | None:
    """Return by what gradients of a norm are multiplied, a scalar: `min(1, max_norm / (norm + 1e-6))`, as torch has it.

    On a CPU, which need not be awaited, None for 1, by which nothing changes.
    """
    if norm.device.type == "cpu" and norm.dtype == torch.float32:
        # in float64 and rounded after every operation these are float32's, without five tensors of one number
        by = _single(_single(max_norm) * _single(1 / _single(norm.item() + _LEAST)))
        return None if by >= 1 else torch.scalar_tensor(by, dtype=torch.float32)
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    return None if factor.device.type == "cpu" and float(factor) == 1 else factor


def _single(number: float) -> float:
    """Return a number rounded to float32."""
    return ctypes.c_float(number).value


_LEAST = _single(1e-6)
