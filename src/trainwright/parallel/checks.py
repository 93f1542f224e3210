"""Whether a strategy of the user's own has set what a run asks for, and returns what the engine goes on with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from trainwright.args.signatures import check_returned, is_of
from trainwright.errors import ConfigError
from trainwright.parallel.strategy import Strategy
from trainwright.world import DataShard, World

Fits = Callable[[Strategy, Any], bool]


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
