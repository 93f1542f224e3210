"""What a process holds of a tensor that is spread over several."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from trainwright.parallel.layouts.layout import TENSOR


class Box(NamedTuple):
    """A part of a tensor: where it begins in the whole one, and its shape."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The index that cuts the part out of the whole."""
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.shape, strict=True))


@dataclass(frozen=True)
class RowSlice:
    """Which rows of a matrix this process holds, of some that divide them.

    Attributes:
        first: the first one's number.
        count: how many.
        most: how many any of the processes holds.
        all: how many there are.
        index: of this process among them.
        processes: how many these are.
        group: by which they talk.
    """

    first: int
    count: int
    most: int
    all: int
    index: int
    processes: int
    group: Any


def is_spread(tensor: Any) -> bool:
    """Whether a tensor is spread over processes; nothing is loaded for the answer."""
    return isinstance(tensor, getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ()))


def box_of(tensor: torch.Tensor) -> Box:
    """Return what this process holds of a tensor; of a plain one all."""
    if not is_spread(tensor):
        return Box((0,) * tensor.dim(), tuple(tensor.shape))
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    spread: Any = tensor
    shape, offsets = compute_local_shape_and_global_offset(spread.shape, spread.device_mesh, spread.placements)
    return Box(tuple(offsets), tuple(shape))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's own memory of a tensor."""
    spread: Any = tensor.detach()
    held: torch.Tensor = spread._local_tensor if is_spread(tensor) else spread
    return held


def is_divided(tensor: torch.Tensor) -> bool:
    """Whether a parameter is that of a layer which is divided over processes, and is gathered but for that."""
    spread: Any = tensor
    return is_spread(tensor) and spread.device_mesh.mesh_dim_names == (TENSOR,)


def undivided(tensor: torch.Tensor, adds_up: bool = False) -> torch.Tensor:
    """Return a gathered parameter whole where its layer is divided over processes, each of which computes with it.

    Args:
        tensor: the parameter.
        adds_up: whether the gradients of these processes add up to that of the whole; otherwise each is that.
    """
    if not is_divided(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    spread: Any = tensor
    whole: torch.Tensor = spread.full_tensor(grad_placements=[Partial()] if adds_up else None)
    return whole


def slice_held(matrix: torch.Tensor) -> RowSlice | None:
    """Return which rows this process holds of the gathered matrix of a layer whose outputs are divided over processes,
    each of which has some; None of any other."""
    spread: Any = matrix
    if not is_divided(matrix) or not spread.placements[0].is_shard(0):
        return None
    mesh, rows = spread.device_mesh, len(matrix)
    most, index = -(-rows // mesh.size()), mesh.get_local_rank()  # as torch cuts: the last ones have less
    if most * (mesh.size() - 1) >= rows:
        return None
    return RowSlice(most * index, min(most, rows - most * index), most, rows, index, mesh.size(), mesh.get_group())


def from_local(held: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the tensor of which this process holds a part, spread as another one is."""
    from torch.distributed.tensor import DTensor

    spread: Any = like
    made: torch.Tensor = DTensor.from_local(
        held, spread.device_mesh, spread.placements, run_check=False, shape=spread.shape, stride=spread.stride()
    )
    return made


def part_like(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor spread as another one is, of which this process keeps its part; or the tensor itself, where
    the other one is whole."""
    if not is_spread(like):
        return whole
    return from_local(whole[box_of(like).slices].clone(), like)
