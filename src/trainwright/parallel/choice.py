"""Which strategy a run has: one process, data parallel, a model that several processes share; or one of the user's own,
which must return what the engine goes on with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from trainwright.args.signatures import check_overrides, check_returned, is_of
from trainwright.errors import ConfigError
from trainwright.parallel.ddp import DataParallel
from trainwright.parallel.sharding import Sharding
from trainwright.parallel.strategy import ProcessOptions, Strategy
from trainwright.world import DataShard, World, choose_device, current_world

Fits = Callable[[Strategy, Any], bool]


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


def check_setup(strategy: Strategy, world: World) -> None:
    """Check what `setup` has set.

    Raises:
        ConfigError: every process would take itself for the only one, or read what it likes.
    """
    name = type(strategy).__name__
    if strategy.world != world:
        raise ConfigError(
            f"{name}.setup has not set self.world, so this process does not know that it is number {world.rank} of "
            f"{world.size}. Call super().setup(world, device, options) first."
        )
    if not isinstance(strategy.data_shard, DataShard):
        raise ConfigError(
            f"{name}.setup has set self.data_shard = {strategy.data_shard!r:.80}; it must be a "
            "trainwright.world.DataShard(index, num_shards)."
        )


def check_answers(strategy: Strategy) -> None:
    """Have what methods of the user's class return checked at each of their calls, which raise a ConfigError.

    They are replaced in the class, so that an instance can be pickled as before.
    """
    for names, wanted, fits in _WANTED:
        for name in names.split():
            owner = next(kind for kind in type(strategy).__mro__ if name in vars(kind))
            method, ours = vars(owner)[name], owner.__module__.startswith("trainwright.")
            if inspect.isfunction(method) and not ours and not is_of(method, "trainwright"):
                setattr(owner, name, _checked(method, name, wanted, fits))


def _checked(method: Callable[..., Any], name: str, wanted: str, fits: Fits) -> Callable[..., Any]:
    @functools.wraps(method)
    def called(strategy: Strategy, *given: Any, **named: Any) -> Any:
        returned = method(strategy, *given, **named)
        if not fits(strategy, returned):
            check_returned(False, returned, f"{type(strategy).__name__}.{name}", wanted)
        return returned

    return called


def _is(*kinds: type) -> Fits:
    return lambda strategy, value: isinstance(value, kinds)


def _is_list(strategy: Strategy, value: Any) -> bool:
    return isinstance(value, list | tuple)


def _of_processes(strategy: Strategy, value: Any) -> bool:
    return _is_list(strategy, value) and len(value) == strategy.world.size


def _of_shards(strategy: Strategy, value: Any) -> bool:
    return _is_list(strategy, value) and len(value) == strategy.data_shard.num_shards


def _rows_of_processes(strategy: Strategy, value: Any) -> bool:
    return _of_processes(strategy, value) and all(_is_list(strategy, row) for row in value)


def _is_pair(strategy: Strategy, value: Any) -> bool:
    return _is_list(strategy, value) and len(value) == 2 and all(isinstance(one, torch.Tensor) for one in value)


def _is_context(strategy: Strategy, value: Any) -> bool:
    return hasattr(value, "__enter__")


def _is_something(strategy: Strategy, value: Any) -> bool:
    return value is not None


_WANTED: list[tuple[str, str, Fits]] = [
    ("place", "the model that it was given", _is(nn.Module)),
    ("prepare", "the module that a step calls, such as the model itself", _is(nn.Module)),
    ("accumulate silenced whole with_main_buffers", "a context, such as contextlib.nullcontext()", _is_context),
    ("agree", "the values of every process, a list of lists", _rows_of_processes),
    ("gather", "a list of the objects of all processes", _of_processes),
    ("one_per_shard gather_shards", "a list with one object for each shard of the data", _of_shards),
    ("sum_tensor held norms finite", "a tensor", _is(torch.Tensor)),
    ("sum_over_shards", "a number", _is(Real)),
    ("clip_gradients", "the norm before, and that of every parameter's gradient, two tensors", _is_pair),
    ("to_device", "the batch", _is_something),
    ("needs_zero_weight_step ran_out forget any nonfinite heard", "True or False", _is_something),
    ("describe own_file", "a text", _is(str)),
    ("generating", "keywords by name", _is(Mapping)),
    ("ranks answers", "a list", _is_list),
]
