"""Which strategy a run has: one process, data parallel, a model that several share; or one of the user's own."""

from __future__ import annotations

import torch

from trainwright.args.signatures import check_overrides
from trainwright.errors import ConfigError
from trainwright.parallel.checks import check_answers, check_setup
from trainwright.parallel.ddp import DataParallel
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.parallel.strategy import ProcessOptions, Strategy
from trainwright.world import World, choose_device, current_world


def start_strategy(
    given: Strategy | None = None,
    world: World | None = None,
    device: torch.device | None = None,
    options: ProcessOptions | None = None,
) -> Strategy:
    """Return how this process trains, after it has joined its peers: what the options ask for, where none is given.

    Args:
        given: a strategy of the user's own.
        world: by default what torchrun's environment tells.
        device: by default this process's GPU, where there is one.
        options: of several processes.

    Raises:
        ConfigError: what is given is none, or cannot be called as one, or the processes or the device do not suit it.
    """
    world = current_world() if world is None else world
    options = options or ProcessOptions()
    strategy = chosen(world, options.sharding) if given is None else given
    if not isinstance(strategy, Strategy):
        what = f"the class {strategy.__name__}" if isinstance(strategy, type) else f"a {type(strategy).__name__}"
        raise ConfigError(f"strategy= is {what}; it must be an instance of a subclass of trainwright.Strategy.")
    check_overrides(strategy, Strategy)
    strategy.setup(world, device or choose_device(world, use_cpu=False), options)
    check_setup(strategy, world)
    check_answers(strategy)
    return strategy


def chosen(world: World, sharding: Sharding | None) -> Strategy:
    """Return the strategy for some processes; one alone shards nothing, unless it was to be one of several.

    Raises:
        ConfigError: a layout was asked for, and it is that of another number of processes.
    """
    if sharding is not None and sharding.layout is not None:
        sharding.layout.check(world.size)
    if world.size == 1:
        return Strategy()
    layout = None if sharding is None else sharding.layout_for(world.size, world.local_size)
    if layout is None or (layout.shard == 1 and layout.tensor == 1):
        return DataParallel()
    if layout.tensor > 1:  # FSDP2 and DTensor are loaded where they are used
        from trainwright.parallel.tensor import TensorSharded

        return TensorSharded(sharding)
    from trainwright.parallel.sharded import Sharded

    return Sharded(sharding)
