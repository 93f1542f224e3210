"""Which modules of a model are gathered one by one when it is sharded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from trainwright.errors import ConfigError, did_you_mean
from trainwright.models.inspect import layers_of
from trainwright.parallel.layouts.sharding import Sharding


def blocks_of(model: nn.Module, sharding: Sharding) -> list[nn.Module]:
    """Return the modules to shard on their own, inner ones first; the rest of the model is one more group.

    The embedding and the output layer stay in the rest, where they may share a matrix, and where the fused loss finds
    the matrix whole. A module that shares a parameter with one outside of it stays there too.

    Raises:
        ConfigError: a class that is named is not in the model.
    """
    found = set(_wanted(model, sharding))
    if sharding.wrap == "layers" and (missing := _missing(model, sharding.layer_names)):
        names = sorted({type(part).__name__ for part in model.modules()})
        raise ConfigError(
            f"fsdp: the model has no layer of class '{missing[0]}' to shard.{did_you_mean(missing[0], names)} Leave "
            "the name out for the model's own layers."
        )
    kept_whole = _ends(model)
    apart = [block for block in model.modules() if block in found and kept_whole.isdisjoint(block.modules())]
    return [block for block in reversed(apart) if not _shares(block, model)]


def _wanted(model: nn.Module, sharding: Sharding) -> Iterator[nn.Module]:
    if sharding.wrap == "size":
        yield from _by_size(model, sharding.min_num_params)
    elif sharding.wrap == "layers":
        names = set(sharding.layer_names)
        yield from _by_name(model, names) if names else layers_of(model)


def _missing(model: nn.Module, names: tuple[str, ...]) -> list[str]:
    here = {type(part).__name__ for part in model.modules()}
    return [name for name in names if name not in here]


def _by_name(model: nn.Module, names: set[str]) -> Iterator[nn.Module]:
    yield from (part for part in model.modules() if type(part).__name__ in names and part is not model)


def _by_size(model: nn.Module, least: int) -> Iterator[nn.Module]:
    """Yield the modules that hold so many parameters besides those of the modules within that are yielded as well."""
    taken: set[int] = set()
    for part in reversed([part for part in model.modules() if part is not model]):
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            continue
        left = {id(p): p.numel() for p in part.parameters() if id(p) not in taken}
        if left and sum(left.values()) >= max(least, 1):
            taken |= left.keys()
            yield part


def _ends(model: nn.Module) -> set[nn.Module]:
    """Return the input and output embeddings of a model of transformers."""
    ends: set[nn.Module] = set()
    for name in ("get_input_embeddings", "get_output_embeddings"):
        give: Any = getattr(model, name, None)
        try:
            end = give() if give is not None else None
        except (NotImplementedError, AttributeError):  # transformers' way to say that it has none
            end = None
        ends |= {end} if isinstance(end, nn.Module) else set()
    return ends


def _shares(block: nn.Module, model: nn.Module) -> bool:
    """Whether a parameter of a block is also one of a module outside of it."""
    inside, own = set(block.modules()), {id(p) for p in block.parameters()}
    return any(id(p) in own for part in model.modules() if part not in inside for p in part._parameters.values())
