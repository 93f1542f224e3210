"""Which strategy a run has."""

from __future__ import annotations

import torch

from trainwright.errors import ConfigError
from trainwright.parallel.ddp import DataParallel
from trainwright.parallel.strategy import ProcessOptions, Strategy
from trainwright.world import World


def start(given: Strategy | None, world: World, device: torch.device, options: ProcessOptions) -> Strategy:
    """Return the strategy, which has joined its processes: the user's own, or data parallel where there are several.

    Raises:
        ConfigError: what is given is none, or the processes or the device do not suit it.
    """
    strategy = given if given is not None else DataParallel() if world.size > 1 else Strategy()
    if not isinstance(strategy, Strategy):
        what = f"the class {strategy.__name__}" if isinstance(strategy, type) else f"a {type(strategy).__name__}"
        raise ConfigError(f"strategy= is {what}; it must be an instance of a subclass of trainwright.Strategy.")
    strategy.setup(world, device, options)
    return strategy
