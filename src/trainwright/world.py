"""Who this process is among its peers, and on which device it computes.

torchrun describes the world in environment variables; nothing here invents another launcher. torch is imported
inside the functions, so that reading arguments and printing help stay light.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class World:
    """Rank and number of the processes of one run, as torchrun's environment tells them, and of this machine's."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one process of the run that writes shared files."""
        return self.rank == 0

    @property
    def counts(self) -> tuple[int, int]:
        """The number of processes of the run, and of those of this machine."""
        return self.size, self.local_size

    @property
    def is_alone(self) -> bool:
        """Whether the run has no other process."""
        return self.size == 1

    @property
    def is_local_main(self) -> bool:
        """Whether this is the first process on its machine."""
        return self.local_rank == 0


@dataclass(frozen=True)
class DataShard:
    """Which part of the rows of every step a process reads; processes that compute one model together read the same.

    Attributes:
        index: its number, from 0.
        num_shards: in how many parts the rows are divided.
    """

    index: int = 0
    num_shards: int = 1


def current_world() -> World:
    """Return the world that torchrun's environment describes; one process without it."""
    env = os.environ
    size = int(env.get("WORLD_SIZE", 1))
    local_size = int(env.get("LOCAL_WORLD_SIZE", size))
    return World(int(env.get("RANK", 0)), int(env.get("LOCAL_RANK", 0)), size, local_size)


def choose_device(world: World, use_cpu: bool) -> torch.device:
    """Return the device of this process: its own GPU, Apple's, or the CPU. One device, never DataParallel."""
    import torch

    if use_cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", world.local_rank)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
