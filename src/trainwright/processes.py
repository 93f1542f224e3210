"""Joining the other processes of a run, and waiting for them."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from trainwright.world import World

if TYPE_CHECKING:
    import torch

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def start_processes(device: torch.device, backend: str | None, timeout: float) -> Any:
    """Join torchrun's process group, once, and return the group for talk between hosts (gloo); without torchrun it is
    that of this process alone."""
    import torch
    from torch import distributed

    end_with_the_agent()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        backend, limit = backend or ("nccl" if device.type == "cuda" else "gloo"), timedelta(seconds=timeout)
        distributed.init_process_group(backend, timeout=limit, **_meeting(limit))
        atexit.register(leave)
    return _hosts(timeout)


def _meeting(limit: timedelta) -> dict[str, Any]:
    """Return where the processes find each other, as keywords; none for torch's own way.

    Processes that torchrun begins anew meet in the store of those before, and would take their addresses for each
    other's (torch 2.13): each beginning has words of its own there.
    """
    import torch
    from torch import distributed

    env = os.environ
    if "RANK" not in env:
        return {"store": torch._C._distributed_c10d.HashStore(), "rank": 0, "world_size": 1}
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    size = int(env["WORLD_SIZE"])
    stores: Any = distributed  # which lists none
    shared = stores.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), size, is_master=False, timeout=limit)
    store = stores.PrefixStore(f"beginning {env.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
    return {"store": store, "rank": int(env["RANK"]), "world_size": size}


def end_with_the_agent() -> None:
    """Get SIGTERM, at which a run saves and leaves, when torchrun's agent ends that began this process: no other one
    would end it. On Linux; nothing elsewhere, and without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or not sys.platform.startswith("linux"):
        return
    agent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != agent:  # it ended just before
        os.kill(os.getpid(), signal.SIGTERM)


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
