"""Trees whose tensors are spread over processes: what is left of them for the file that one process writes, and back.

In that file a tensor of the device `meta` stands for one that is spread: it tells shape and number format, and its
place in the tree is the name of its slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainwright.checkpoint.sharded.slices import Slices
from trainwright.parallel.layouts.boxes import box_of, from_local, is_spread

Place = tuple[Any, ...]  # keys and numbers that lead to a tensor
Like = Callable[[Place], torch.Tensor | None]  # the tensor that is spread as the one at a place is to be


def split(tree: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a tree without the tensors that are spread, and these by name."""
    spread: dict[str, torch.Tensor] = {}

    def put_aside(place: Place, tensor: torch.Tensor) -> torch.Tensor:
        if not is_spread(tensor):
            return tensor
        spread[name_of(place)] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return _mapped(tree, put_aside), spread


def filled(tree: Any, slices: Slices, place: Place = (), like: Like | None = None) -> Any:
    """Return a tree of whole tensors and stand-ins in which every tensor is spread as it is wanted, or whole.

    Args:
        tree: what a file holds, or a part of it.
        slices: of the tensors that are spread.
        place: of the part in the file's tree.
        like: which tensor another one is to be spread like; only what this process holds of it is read.

    Raises:
        CheckpointError: the slices lack a part of a tensor.
    """

    def whole_or_part(place: Place, tensor: torch.Tensor) -> torch.Tensor:
        wanted = None if like is None else like(place)
        spreads = wanted is not None and is_spread(wanted) and wanted.shape == tensor.shape
        if tensor.device.type != "meta" and not spreads:
            return tensor
        box = box_of(wanted) if wanted is not None and spreads else box_of(tensor)
        if tensor.device.type == "meta":
            held = slices.read(name_of(place), box, tensor.dtype)
        else:
            held = tensor[box.slices].clone()
        return from_local(held.to(wanted.device), wanted) if wanted is not None and spreads else held

    return _mapped(tree, whole_or_part, place)


def name_of(place: Place) -> str:
    """Return the name of the slices of the tensor at a place, such as `state.0.exp_avg`."""
    return ".".join(map(str, place))


def _mapped(tree: Any, change: Callable[[Place, torch.Tensor], torch.Tensor], place: Place = ()) -> Any:
    if isinstance(tree, torch.Tensor):
        return change(place, tree)
    if isinstance(tree, dict):
        return type(tree)({key: _mapped(item, change, (*place, key)) for key, item in tree.items()})
    if type(tree) in (list, tuple):
        return type(tree)(_mapped(item, change, (*place, number)) for number, item in enumerate(tree))
    return tree
