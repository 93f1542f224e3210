"""The weights of a model that is spread over processes: whole tensors, each in the file of one process, as transformers
lays out what is too large for one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.checkpoint import layout
from trainwright.checkpoint.layout import Share
from trainwright.checkpoint.model import adapters, weights
from trainwright.checkpoint.model.tensors import identity, refuse
from trainwright.checkpoint.sharded import plan
from trainwright.checkpoint.sharded.slices import Slices
from trainwright.errors import CheckpointError, UnsavableError
from trainwright.models.inspect import holds_adapters, is_pretrained
from trainwright.parallel.boxes import box_of, is_spread, local

_COMPILED = "_orig_mod."


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of a model are spread over processes."""
    return any(is_spread(parameter) for parameter in model.parameters())


@dataclass(frozen=True)
class Contents:
    """What the files of a model hold, of all processes.

    Attributes:
        tensors: the model's own tensors, by their names in the files; of adapters, by their names in the model.
        owner: the process that each goes to, whole.
        adapters: whether it holds adapters, which the first process writes as PEFT does.
    """

    tensors: dict[str, torch.Tensor]
    owner: dict[str, int]
    adapters: bool

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(map(nbytes, self.tensors.values()))

    def index(self, count: int) -> str:
        """Return the text of the index of the files of `count` processes, as transformers reads it."""
        files = {name: layout.of_share(layout.WEIGHTS, Share(self.owner[name], count)) for name in sorted(self.tensors)}
        return json.dumps({"metadata": {"total_size": self.nbytes}, "weight_map": files}, indent=2) + "\n"


def contents_of(model: nn.Module, count: int) -> Contents:
    """Return what the files of a model that is spread over `count` processes hold.

    Raises:
        UnsavableError: they hold other tensors than its memory.
    """
    if holds_adapters(model):
        tensors = _of_adapters(model)
        return Contents(tensors, dict.fromkeys(tensors, 0), adapters=True)
    tensors = on_disk(model)
    return Contents(tensors, plan.owners({name: nbytes(tensor) for name, tensor in tensors.items()}, count), False)


def nbytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a whole tensor, wherever they lie."""
    return tensor.numel() * tensor.element_size()


def _stand_ins(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors of the same names, shapes, types and ties, without the numbers."""
    made: dict[Any, torch.Tensor] = {}
    for tensor in state.values():
        made.setdefault(identity(tensor), torch.empty(1, dtype=tensor.dtype).expand(tensor.shape))
    return {name: made[identity(tensor)] for name, tensor in state.items()}


def _of_adapters(model: Any) -> dict[str, torch.Tensor]:
    """Return what the files of a model's adapters are made of, by the model's own names: the adapters, and what else is
    trained or changes in training."""
    state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    stand_ins = _stand_ins(state)
    inside = {id(one) for name in model.peft_config for one in adapters.tensors_of(model, name, stand_ins).values()}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return {
        name: tensor
        for name, tensor in state.items()
        if tensor.requires_grad or name in buffers or id(stand_ins[name]) in inside
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
    """Return the model's own tensors under the names of its files, those that are tied once; alike on every process.

    Raises:
        UnsavableError: its files hold other tensors than its memory.
    """
    state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    if not is_pretrained(model):
        found: dict[Any, str] = {}
        for name, tensor in state.items():
            found.setdefault(identity(tensor), name)
        return {name: state[name] for name in found.values()}
    stand_ins = _stand_ins(state)
    meant = {id(stand_ins[name]): tensor for name, tensor in state.items()}
    saved = weights.as_transformers_saves(model, stand_ins)
    if foreign := [name for name, tensor in saved.items() if id(tensor) not in meant]:
        raise UnsavableError(
            f"{type(model).__name__} has other tensors in its files than in memory ({', '.join(foreign[:2])}), which "
            "cannot be saved while it is spread over processes. Train it without sharding (ddp), or set "
            "save_strategy='no'."
        )
    return {name: meant[id(tensor)] for name, tensor in saved.items()}


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
    files, own = _files(folder), on_disk(model)
    mine = {id(tensor) for tensor in own.values()}
    tied = {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in mine} - own.keys()
    saved = {name.removeprefix(_COMPILED): (path, name) for name, path in files.items()}
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
