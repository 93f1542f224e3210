"""A stand-in for Apple's GPU: a device that is neither the CPU nor CUDA's, has no float64, and works when it likes.

Tensors say that they are on `meta`, since autograd wants to know a device, and hold their values in host memory. Copies
to the host that are not waited for hold nonsense until an event that was recorded after them is over. Whatever makes
the host wait for the device is noted while `noting_waits` is on.
"""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

from trainwright.checkpoint.folder import unpickled

DEVICE = torch.device("meta")
NONSENSE = 77
aten = torch.ops.aten
WAITS = {  # what has a size, or a value for the host, that only the device knows
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten.is_nonzero.default, aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default,
    aten.bincount.default, aten.argwhere.default,
}  # fmt: skip
MOVES = (aten.copy_.default, aten._to_copy.default)


class OnDevice(torch.Tensor):
    """A tensor of the device; its values are in `host`."""

    is_meta = False  # as a card's; one of the device `meta` has no values

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
        Waits.note("tolist")
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
    Waits.look(func, args, kwargs, here)
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


class Waits:
    """Where the host waited for the device, while that is noted: the operation, and the line of ours that asked."""

    on = False
    noted: list[str] = []
    queued = 0  # operations that the device was given

    @classmethod
    def note(cls, what):
        if not cls.on:
            return
        frames = [one for one in traceback.extract_stack() if "/tests/stand_in" not in one.filename]
        ours = next((one for one in reversed(frames) if "/trainwright/" in one.filename), frames[-1])
        cls.noted.append(f"{what} at {ours.filename.rpartition('/src/')[2]}:{ours.lineno}: {ours.line}")

    @classmethod
    def look(cls, func, args, kwargs, here):
        cls.queued += here
        if not cls.on:
            return
        if func in MOVES:
            moves = [one for one in args[:2] if isinstance(one, torch.Tensor)]
            source = isinstance(moves[-1], OnDevice)
            asked = kwargs.get("device")
            target = isinstance(moves[0], OnDevice) if asked is None else torch.device(asked) == DEVICE
            given = args[2] if func is MOVES[0] and len(args) > 2 else kwargs.get("non_blocking", False)
            if source != target and not given:
                cls.note(f"{func} {'from' if source else 'to'} the device")
        elif here and (func in WAITS or by_mask(func, args) or counts_repeats(func, kwargs)):
            cls.note(str(func))


def by_mask(func, args):
    """Whether tensors are picked by a mask, whose number of hits the device alone knows."""
    if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor):
        return False
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])


def counts_repeats(func, kwargs):
    """Whether something is repeated as often as the device alone knows."""
    return func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None


class Event:
    """Comes when all is done that was queued before it was recorded."""

    coming: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __init__(self, device):
        assert torch.device(device) == DEVICE

    def record(self, stream=None):
        self.before, Event.coming = Event.coming, []
        self.queued = Waits.queued

    def synchronize(self):
        if Waits.queued == self.queued:  # nothing else was given to the device meanwhile
            Waits.note("an event")
        for target, value in self.before:
            target.copy_(value)
        self.before = []


@contextmanager
def noting_waits():
    """Note every wait for the device from here on; gives the list of them."""
    Waits.on, Waits.noted = True, []
    try:
        yield Waits.noted
    finally:
        Waits.on = False


def forbidden(*args, **kwargs):
    raise AssertionError("a call of CUDA's, without one")


@contextmanager
def device(skips=False):
    """Run with this device as the one that is found; `skips`: its fused optimizers heed `found_inf`, as CUDA's do."""
    Event.coming = []
    with (
        mock.patch("trainwright.training.setup.choose_device", return_value=DEVICE),
        mock.patch("trainwright.devices.WITHOUT_FLOAT64", ("meta",)),
        mock.patch("trainwright.parallel.precision.skips_by_itself", return_value=skips),
        mock.patch("trainwright.checkpoint.snapshot.bytes_of", moved_bytes),
        mock.patch("trainwright.checkpoint.folder.unpickled", lambda path, device="cpu", mapped=False: unpickled(path)),
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
