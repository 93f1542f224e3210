"""Joining the other processes of a run, and waiting for them."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from trainwright.world import World

if TYPE_CHECKING:
    import torch


def start_processes(device: torch.device, backend: str | None, timeout: float) -> Any:
    """Join torchrun's process group, once, and return the group for talk between hosts (gloo); without torchrun it is
    that of this process alone."""
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        backend, limit = backend or ("nccl" if device.type == "cuda" else "gloo"), timedelta(seconds=timeout)
        alone: dict[str, Any] = {"store": torch._C._distributed_c10d.HashStore(), "rank": 0, "world_size": 1}
        distributed.init_process_group(backend, timeout=limit, **({} if "RANK" in os.environ else alone))
        atexit.register(leave)
    return _hosts(timeout)


@cache
def _hosts(timeout: float) -> Any:
    from torch import distributed

    if distributed.get_backend() == "gloo":
        return distributed.group.WORLD
    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout))


def leave() -> None:
    """Leave the group when its threads have let go of the last exchange's tensors: they need the interpreter for that,
    and one that comes when it is ending aborts the process (gloo's runLoop, torch 2.13)."""
    from torch import distributed

    time.sleep(0.05)
    _hosts.cache_clear()
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def first_alone(world: World, hosts: Any, local: bool) -> Iterator[None]:
    """Let the main process, or with `local` that of every machine, do something before the others do it."""
    from torch import distributed

    first = world.is_local_main if local else world.is_main
    try:
        if not first:
            distributed.barrier(group=hosts)
        yield
    finally:
        if first:
            distributed.barrier(group=hosts)
