"""A cache of keys and values with room for all that is to be written, from which finished rows are taken out."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from trainwright.errors import ConfigError


def cache_name(model: Any) -> str:
    """Return what a model's `forward` calls its cache.

    Raises:
        ConfigError: it has none of transformers' own.
    """
    taken = inspect.signature(model.forward).parameters
    for name in ("cache", "past_key_values"):  # from transformers 5.24 on, and before
        if name in taken:
            return name
    raise ConfigError(
        f"{type(model).__name__} keeps no cache that is transformers' `Cache`, so nothing is written with it. Take a "
        "newer transformers, or another model."
    )


class Room:
    """The cache of one batch: filled with the prompts, then widened to several completions of each.

    Layers of full attention are given their whole room at once, and views of it are handed to the model: nothing is
    copied when a token is added, and a finished row is overwritten by the last one that goes on. Others (sliding
    windows, the states of Mamba and its kin) are transformers' own.
    """

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        kind = _layer_with_room()
        self.cache: Any = DynamicCache(config=model.config)
        self.cache.layers = [kind() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]

    @property
    def takes_padding(self) -> bool:
        """Whether prompts of several lengths are read together; states of Mamba and its kin would take padding in."""
        return not any(hasattr(layer, "update_recurrent_state") for layer in self.cache.layers)

    def widen(self, count: int, tokens: int, rows: int, device: torch.device) -> None:
        """Have `count` rows in place of each of the `rows`, side by side, with room for so many more tokens."""
        for layer in self.cache.layers:
            if hasattr(layer, "widen"):
                layer.widen(count, tokens)
            elif count > 1:
                layer.reorder_cache(torch.arange(rows, device=device).repeat_interleave(count))

    def keep(self, order: torch.Tensor) -> None:
        """Keep some rows, in an order in which each stays where it is or comes from behind; shape (rows,)."""
        for layer in self.cache.layers:
            if hasattr(layer, "keep"):
                layer.keep(order)
            else:
                layer.reorder_cache(order)


@functools.cache
def _layer_with_room() -> Any:
    """Return the class of layers of transformers' cache that are given their room by `widen`."""
    from transformers.cache_utils import DynamicLayer

    class LayerWithRoom(DynamicLayer):
        rooms: tuple[torch.Tensor, torch.Tensor] | None = None
        keys: torch.Tensor
        values: torch.Tensor

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *more: Any, **named: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if self.rooms is None:
                found: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *more, **named)
                return found
            rows, begin = len(key_states), self.keys.shape[2]
            end = begin + key_states.shape[2]
            for room, states in zip(self.rooms, (key_states, value_states), strict=True):
                room[:rows, :, begin:end] = states
            self.keys, self.values = (room[:rows, :, :end] for room in self.rooms)
            return self.keys, self.values

        def widen(self, count: int, tokens: int) -> None:
            rooms = []
            for known in (self.keys, self.values):
                rows, heads, length, width = known.shape
                room = known.new_empty(rows * count, heads, length + tokens, width)
                room[:, :, :length] = known.repeat_interleave(count, dim=0) if count > 1 else known
                rooms.append(room)
            length = self.keys.shape[2]
            self.rooms = (rooms[0], rooms[1])
            self.keys, self.values = (room[:, :, :length] for room in self.rooms)

        def keep(self, order: torch.Tensor) -> None:
            places = torch.arange(len(order), device=order.device)
            moved = places[order != places]
            for known in (self.keys, self.values):
                known[moved] = known[order[moved]]
            self.keys, self.values = self.keys[: len(order)], self.values[: len(order)]

    return LayerWithRoom
