"""The weights of a model that is spread over processes: whole tensors, each in the file of one process, as transformers
lays out what is too large for one file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.checkpoint import layout
from trainwright.checkpoint.layout import Share
from trainwright.checkpoint.model import adapters, weights
from trainwright.checkpoint.model.tensors import refuse
from trainwright.checkpoint.sharded import plan
from trainwright.checkpoint.sharded.forms import Group, groups_of, in_files, stand_ins
from trainwright.checkpoint.sharded.slices import Slices
from trainwright.errors import CheckpointError
from trainwright.models.inspect import holds_adapters, is_pretrained
from trainwright.parallel.layouts.boxes import box_of, is_spread, local

_COMPILED = "_orig_mod."


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of a model are spread over processes."""
    return any(is_spread(parameter) for parameter in model.parameters())


@dataclass(frozen=True)
class Contents:
    """What the files of a model hold, of all processes.

    Attributes:
        tensors: the model's own tensors, by their names in memory.
        owner: the process that each goes to, whole.
        groups: what becomes of them in the files; none of adapters, which the first process writes as PEFT does.
    """

    tensors: dict[str, torch.Tensor]
    owner: dict[str, int]
    groups: list[Group]

    @property
    def adapters(self) -> bool:
        """Whether they are adapters."""
        return not self.groups

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(map(nbytes, self.tensors.values()))

    def index(self, count: int) -> str:
        """Return the text of the index of the files of `count` processes, as transformers reads it."""
        files = {
            name: layout.of_share(layout.WEIGHTS, Share(self.owner[group.names[0]], count))
            for group in self.groups
            for name in group.files
        }
        told = {"metadata": {"total_size": self.nbytes}, "weight_map": dict(sorted(files.items()))}
        return json.dumps(told, indent=2) + "\n"

    def written(self, model: nn.Module, owned: dict[str, torch.Tensor], process: int) -> dict[str, torch.Tensor]:
        """Return what a process writes, made of the whole tensors that it owns, which leave the dictionary."""
        return in_files(model, [group for group in self.groups if self.owner[group.names[0]] == process], owned)


def contents_of(model: nn.Module, count: int, to_give_on: bool = False) -> Contents:
    """Return what the files of a model that is spread over `count` processes hold.

    Args:
        model: the model.
        count: processes.
        to_give_on: whether the files are those that the architecture has everywhere, and not a checkpoint's.
    """
    state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    if holds_adapters(model):
        tensors = _of_adapters(model)
        return Contents(tensors, dict.fromkeys(tensors, 0), [])
    groups = groups_of(model, state, to_give_on)
    tensors = {name: state[name] for group in groups for name in group.names}
    owner = plan.owners({one.names[0]: sum(nbytes(state[name]) for name in one.names) for one in groups}, count)
    return Contents(tensors, {name: owner[one.names[0]] for one in groups for name in one.names}, groups)


def nbytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a whole tensor, wherever they lie."""
    return tensor.numel() * tensor.element_size()


def _of_adapters(model: Any) -> dict[str, torch.Tensor]:
    """Return what the files of a model's adapters are made of, by the model's own names: the adapters, and what else is
    trained or changes in training."""
    state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    known = stand_ins(state)
    inside = {id(one) for name in model.peft_config for one in adapters.tensors_of(model, name, known).values()}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return {
        name: tensor
        for name, tensor in state.items()
        if tensor.requires_grad or name in buffers or id(known[name]) in inside
    }


@contextmanager
def holding(model: nn.Module, whole: dict[str, torch.Tensor]) -> Iterator[None]:
    """Let a model have whole tensors, by its own names, in place of those that are spread."""
    places = [(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], path) for path in whole]
    spread = [(part, name, path, part._parameters[name]) for part, name, path in places if name in part._parameters]
    for part, name, path, own in spread:
        part._parameters[name] = nn.Parameter(whole[path], own is not None and own.requires_grad)
    try:
        yield
    finally:
        for part, name, _, own in spread:
            part._parameters[name] = own


def on_disk(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that a checkpoint holds of a model, by their names in it, those that are tied once; alike on
    every process."""
    state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    return {group.files[0]: state[group.names[0]] for group in groups_of(model, state)}


def load_model(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint's weights into a model, in place; of one that is spread over processes, each reads what it
    holds.

    Raises:
        CheckpointError: the folder holds no weights (for a spread model in safetensors), or those of another
            architecture; nothing is changed then, but by a model that loads them in its own way.
    """
    if is_sharded(model) and not holds_adapters(model):
        _load_parts(model, folder)
    else:
        weights.load_model(model, folder)


def _load_parts(model: nn.Module, folder: Path) -> None:
    files, state = _files(folder), model.state_dict(keep_vars=True)
    saved = {name.removeprefix(_COMPILED): (path, name) for name, path in files.items()}
    names = [(group.files[0], group.names[0]) for group in groups_of(model, state)]
    in_memory_form = saved.keys() == {name for _, name in names}
    own = {name if in_memory_form else file: state[name] for file, name in names}
    if saved.keys() != own.keys() and _are_in_file_form(model, state, saved):
        _take_parts(state, weights.as_in_memory(model, folder))
        return
    mine = {id(tensor) for tensor in own.values()}
    tied = {name for name, tensor in state.items() if id(tensor) in mine} - own.keys()
    opened = {path: Slices(folder, [path]) for path in files.values()}
    shapes = [
        f"{name} {tuple(shape)} against {tuple(own[name].shape)}"
        for name, (path, inside) in saved.items()
        if name in own and (shape := opened[path].box(inside).shape) != tuple(own[name].shape)
    ]
    unknown = [name for name in saved if name not in own and name not in tied]
    refuse(folder, [name for name in own if name not in saved], unknown, shapes)
    with torch.no_grad():
        for name, tensor in own.items():
            path, inside = saved[name]
            if (box := box_of(tensor)).numel:
                local(tensor).copy_(opened[path].read(inside, box, tensor.dtype))


def _are_in_file_form(model: nn.Module, state: dict[str, torch.Tensor], names: Collection[str]) -> bool:
    """Whether some names are those of the files that one process writes of a model."""
    return is_pretrained(model) and set(names) == weights.as_transformers_saves(model, stand_ins(state)).keys()


def _take_parts(state: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]) -> None:
    """Copy from whole tensors, made of those of files that hold others, what this process holds."""
    with torch.no_grad():
        for name, tensor in state.items():
            if name in whole:
                local(tensor).copy_(whole[name][box_of(tensor).slices])


def _files(folder: Path) -> dict[str, Path]:
    """Return in which file every tensor of a folder lies."""
    index = folder / layout.INDEX
    if index.exists():
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in names.items()}
    path = folder / layout.WEIGHTS
    if not path.exists():
        raise CheckpointError(
            f"{folder} holds no weights of a whole model in safetensors, of which every process reads its part "
            f"({layout.WEIGHTS} or {layout.INDEX} is missing); give a folder that a save wrote."
        )
    return dict.fromkeys(Slices(folder, [path]).names(), path)
