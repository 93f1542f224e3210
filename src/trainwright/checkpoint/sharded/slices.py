"""Reading parts of tensors, wherever they lie in a row of files: no more bytes than are asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from trainwright.checkpoint import layout
from trainwright.errors import CheckpointError
from trainwright.parallel.layouts.boxes import Box

OFFSETS = "offsets"  # in a file's metadata: where the slices in it begin in their whole tensors, as JSON by name


class File:
    """One file of safetensors, with slices of tensors or whole ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: Any = safe_open(path, framework="pt")

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """Where what is in the file lies in the whole tensors, by their names."""
        offsets = json.loads((self._open.metadata() or {}).get(OFFSETS, "{}"))
        shapes = {name: tuple(self._open.get_slice(name).get_shape()) for name in self._open.keys()}  # noqa: SIM118
        return {name: Box(tuple(offsets.get(name, (0,) * len(shape))), shape) for name, shape in shapes.items()}

    def read(self, name: str, inside: Box) -> torch.Tensor:
        """Return a part of what the file holds of a tensor; `inside` counts from where that begins."""
        if not inside.shape or inside == Box((0,) * len(inside.shape), self.boxes[name].shape):
            whole: torch.Tensor = self._open.get_tensor(name)
            return whole
        part: torch.Tensor = self._open.get_slice(name)[inside.slices]
        return part


class Slices:
    """Tensors in a row of files.

    Args:
        folder: of the files, for messages.
        paths: of the files, those first that most likely hold what is asked for; they are opened when they are needed.
    """

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self.folder, self._paths = folder, list(paths)
        self._files: list[File] = []

    def __bool__(self) -> bool:
        return bool(self._paths)

    def names(self) -> list[str]:
        """Return what the files hold something of."""
        return list({name: None for number in range(len(self._paths)) for name in self._file(number).boxes})

    def box(self, name: str) -> Box:
        """Return which part of a tensor the first file that has some holds; of whole tensors all."""
        return next(b for n in range(len(self._paths)) if (b := self._file(n).boxes.get(name)) is not None)

    def read(self, name: str, box: Box, dtype: torch.dtype) -> torch.Tensor:
        """Return a part of a tensor, in a number format.

        Raises:
            CheckpointError: the files do not hold all of it.
        """
        part, left = torch.empty(box.shape, dtype=dtype), box.numel
        for number in range(len(self._paths) if left else 0):
            file = self._file(number)
            common = overlap(file.boxes.get(name), box)
            if common is None:
                continue
            found = file.read(name, _moved(common, file.boxes[name]))
            if common == box:
                return found.to(dtype)
            part[_moved(common, box).slices] = found
            left -= common.numel
            if not left:
                break
        if left:
            raise CheckpointError(
                f"{self.folder} holds only a part of '{name}' ({box.numel - left} of {box.numel} numbers that are "
                "needed). Resume from another checkpoint."
            )
        return part

    def _file(self, number: int) -> File:
        if number == len(self._files):
            self._files.append(File(self._paths[number]))
        return self._files[number]


def of_file(folder: Path, file: str, share: layout.Share) -> Slices:
    """Return the slices of what one file of torch.save stands for, those first that this process has most likely
    written."""
    paths = layout.shares_of(folder, file)
    first = share.index * len(paths) // share.count
    return Slices(folder, paths[first:] + paths[:first])


def overlap(one: Box | None, other: Box) -> Box | None:
    """Return what two parts of a tensor have in common, or None."""
    if one is None:
        return None
    begin = tuple(map(max, one.offsets, other.offsets))
    ends = (_ends(one), _ends(other))
    shape = tuple(end - start for start, end in zip(begin, map(min, *ends), strict=True))
    return Box(begin, shape) if all(size > 0 for size in shape) else None


def _ends(box: Box) -> list[int]:
    return [at + size for at, size in zip(box.offsets, box.shape, strict=True)]


def _moved(box: Box, origin: Box) -> Box:
    """Return a box as it is seen from the beginning of another one."""
    return Box(tuple(at - start for at, start in zip(box.offsets, origin.offsets, strict=True)), box.shape)
