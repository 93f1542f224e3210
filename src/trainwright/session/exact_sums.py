"""Sums of a million numbers: they stay on their device, and lose nothing to rounding that a log would show.

A sum is a float64; on a device that has none it is a pair of float32, shape (2,): what it comes to, and what rounding
has lost of that.
"""

from __future__ import annotations

from typing import Any

import torch

from trainwright.devices import moved, widest_float


def widened(value: torch.Tensor) -> torch.Tensor:
    """Return a number in the widest format of its device."""
    return value.to(widest_float(value.device))


def as_sum(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the sum that begins with a number, or goes on from a sum, on a device."""
    if widest_float(device) == torch.float64:
        return value.to(device, torch.float64).sum()
    if widest_float(value.device) == torch.float64:
        exact = value.double().sum()
        return torch.stack((exact.float(), (exact - exact.float()).float())).to(device)
    return value if value.ndim else torch.stack((value.float(), torch.zeros_like(value, dtype=torch.float32)))


def at_once(value: torch.Tensor) -> Any:
    """Return a number of the host as a plain one, which takes a tenth to add; one of a device as it is."""
    return value.item() if value.device.type == "cpu" and widest_float(value.device) == torch.float64 else value


def mean_of(value: torch.Tensor) -> Any:
    """Return the mean of some numbers in the widest format of their device: a plain one of the host's."""
    number = at_once(value) if value.ndim == 0 else value
    return at_once(widened(number).mean()) if isinstance(number, torch.Tensor) else number


def as_tensor(value: Any) -> torch.Tensor:
    """Return a plain number as a tensor of the host, without loss; a tensor as it is."""
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


def begun(value: Any) -> Any:
    """Return the sum of one number: a plain one, which the host adds in float64, or one of a device."""
    return as_sum(value, value.device) if isinstance(value, torch.Tensor) else value


def plus(total: Any, value: Any) -> Any:
    """Return a sum with a number, or another sum, added; pairs by TwoSum (Knuth, The Art of Computer Programming 2,
    section 4.2.2)."""
    if not isinstance(total, torch.Tensor):
        if not isinstance(value, torch.Tensor):
            return total + value
        total = as_sum(as_tensor(total), value.device)
    if not isinstance(value, torch.Tensor):
        value = as_tensor(value)
    if value.device != total.device:
        if total.device.type == "cpu":
            return plus(begun(value), total)
        value = moved(value, total.device)
    if total.ndim == 0:
        return total + value
    value = value.float().sum()
    high, low = total
    rounded = high + value
    part = rounded - high
    lost = (high - (rounded - part)) + (value - part) + low
    total = rounded + lost
    return torch.stack((total, lost - (total - rounded)))


def number_of(total: Any) -> float:
    """Return what a sum comes to; this waits for the device."""
    return total.cpu().double().sum().item() if isinstance(total, torch.Tensor) else float(total)
