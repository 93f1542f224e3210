"""What differs between CPUs, CUDA's GPUs and Apple's, in one place."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

WITHOUT_FLOAT64 = ("mps",)


def widest_float(device: torch.device) -> torch.dtype:
    """Return the widest floating-point format that a device computes in; Apple's GPUs have no float64."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device, in the widest format that is there; a copy is only queued."""
    if tensor.device == device:
        return tensor
    if tensor.dtype == torch.float64 and widest_float(device) != torch.float64:
        return tensor.to(device, torch.float32, non_blocking=True)
    return tensor.to(device, non_blocking=True)


def sent(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a device's tensor in host memory; it is only queued, and there when `queued` is over."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)


def queued(device: torch.device) -> torch.Event:
    """Return an event that is over when a device has done all that it was given until now."""
    event = torch.Event(device)
    event.record(torch.accelerator.current_stream(device))
    return event


def skips_by_itself(tensor: torch.Tensor) -> bool:
    """Whether fused optimizers on the tensor's device heed `found_inf` there, as they surely do with CUDA."""
    return tensor.is_cuda


def empty_cache(device: torch.device) -> None:
    """Give memory back that the device's allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def random_states() -> dict[str, Any]:
    """Return the state of the stream of random numbers of every device that this process may draw from, by kind."""
    states = {}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.random.get_rng_state()
    if has_mps():
        states["mps"] = torch.mps.get_rng_state()
    return states


@cache
def has_mps() -> bool:
    """Whether this machine has a GPU of Apple's; asked of torch once, since the answer is wanted at every step."""
    return torch.backends.mps.is_available()


def restore_random(states: dict[str, Any]) -> None:
    """Put the devices' streams back to saved states, those of devices that are here."""
    if "cuda" in states and torch.cuda.is_available():
        cuda = states["cuda"]  # a list is of all devices, as transformers saves them
        torch.cuda.random.set_rng_state(cuda[torch.cuda.current_device()] if isinstance(cuda, list) else cuda)
    if "mps" in states and has_mps():
        torch.mps.set_rng_state(states["mps"])
