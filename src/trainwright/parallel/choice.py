"""Which strategy a run has."""

from __future__ import annotations

import torch

from trainwright.errors import ConfigError
from trainwright.parallel.ddp import DataParallel
from trainwright.parallel.strategy import ProcessOptions, Strategy
from trainwright.world import World, choose_device, current_world


def start_strategy(
    given: Strategy | None = None,
    world: World | None = None,
    device: torch.device | None = None,
    options: ProcessOptions | None = None,
) -> Strategy:
    """Return how this process trains, after it has joined its peers: one process, or data parallel under torchrun.

    Args:
        given: a strategy of the user's own.
        world: by default what torchrun's environment tells.
        device: by default this process's GPU, where there is one.
        options: of several processes.

    Raises:
        ConfigError: what is given is none, or the processes or the device do not suit it.
    """
    world = current_world() if world is None else world
    strategy = given if given is not None else DataParallel() if world.size > 1 else Strategy()
    if not isinstance(strategy, Strategy):
        what = f"the class {strategy.__name__}" if isinstance(strategy, type) else f"a {type(strategy).__name__}"
        raise ConfigError(f"strategy= is {what}; it must be an instance of a subclass of trainwright.Strategy.")
    strategy.setup(world, device or choose_device(world, use_cpu=False), options or ProcessOptions())
    return strategy
