"""A stand-in for Apple's GPU: a device that is neither the CPU nor CUDA's, has no float64, and works when it likes.

Tensors say that they are on `meta`, since autograd wants to know a device, and hold their values in host memory. Copies
to the host that are not waited for hold nonsense until an event that was recorded after them is over.
"""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

from trainwright.checkpoint.folder import unpickled

DEVICE = torch.device("meta")
NONSENSE = 77


class OnDevice(torch.Tensor):
    """A tensor of the device; its values are in `host`."""

    @staticmethod
    def __new__(cls, host):
        if host.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a tensor to float64 dtype as the framework doesn't support float64.")
        return torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=DEVICE, requires_grad=host.requires_grad,
        )  # fmt: skip

    def __init__(self, host):
        self.host = host

    def tolist(self):
        return self.host.tolist()

    def untyped_storage(self):
        return self.host.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class Mode(TorchDispatchMode):
    """Makes what is asked of the device, and what moves between it and the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Run an operation on the host, and keep its result where that device would have it."""
    args, kwargs = tree_map_only(torch.Tensor, known, (args, kwargs))
    asked = kwargs.get("device")
    tensors = []
    tree_map_only(torch.Tensor, tensors.append, (args, kwargs))
    here = any(isinstance(one, OnDevice) for one in tensors)
    inside, kwargs_inside = tree_map_only(OnDevice, lambda one: one.host, (args, kwargs))
    if func is torch.ops.aten.copy_.default:
        leaves = isinstance(args[1], OnDevice) and not isinstance(args[0], OnDevice)
        copy(leaves, *inside)
        return args[0]
    for one in tensors:
        if here and not isinstance(one, OnDevice) and one.ndim:
            raise RuntimeError(f"{func}: expected all tensors to be on the device, but one is on {one.device}")
    if asked is not None:
        kwargs_inside = kwargs_inside | {"device": torch.device("cpu")}
    result = func(*inside, **kwargs_inside)
    if here if asked is None else torch.device(asked) == DEVICE:
        result = tree_map_only(torch.Tensor, lambda one: one if isinstance(one, OnDevice) else OnDevice(one), result)
        return return_and_correct_aliasing(func, args, kwargs, result) if here else result
    return result


def known(tensor):
    """Return a tensor as one of ours; torch.tensor([], device=...) passes by the mode."""
    bare = not isinstance(tensor, OnDevice) and tensor.device == DEVICE and not tensor.numel()
    return OnDevice(torch.empty(tensor.shape, dtype=tensor.dtype)) if bare else tensor


def copy(leaves, target, source, non_blocking=False):
    """Copy values now; those that leave the device and are not waited for, when an event is over."""
    if leaves and non_blocking:
        Event.coming.append((target, source.clone()))
        target.fill_(NONSENSE)
    else:
        target.copy_(source)


class Event:
    """Comes when all is done that was queued before it was recorded."""

    coming: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __init__(self, device):
        assert torch.device(device) == DEVICE

    def record(self, stream=None):
        self.before, Event.coming = Event.coming, []

    def synchronize(self):
        for target, value in self.before:
            target.copy_(value)
        self.before = []


def forbidden(*args, **kwargs):
    raise AssertionError("a call of CUDA's, without one")


@contextmanager
def device():
    """Run with this device as the one that is found."""
    Event.coming = []
    with (
        mock.patch("trainwright.training.setup.choose_device", return_value=DEVICE),
        mock.patch("trainwright.devices.WITHOUT_FLOAT64", ("meta",)),
        mock.patch("trainwright.checkpoint.snapshot.bytes_of", moved_bytes),
        mock.patch("trainwright.checkpoint.folder.unpickled", lambda path, device="cpu": unpickled(path)),
        mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", return_value=["meta"]),
        mock.patch("torch.is_autocast_enabled", return_value=False),
        mock.patch("torch.Event", Event),
        mock.patch("torch.cuda.Event", forbidden),
        mock.patch("torch.accelerator.current_stream", return_value=None),
        Mode(),
    ):
        yield


def moved_bytes(tensor):
    """Return the bytes of a tensor's storage, on its device."""
    host = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return OnDevice(host) if isinstance(tensor, OnDevice) else host
