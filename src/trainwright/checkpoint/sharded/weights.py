"""The weights of a model that is spread over processes: whole tensors, each in the file of one process, as transformers
lays out what is too large for one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.checkpoint import layout
from trainwright.checkpoint.model import weights
from trainwright.checkpoint.model.tensors import identity, refuse
from trainwright.checkpoint.sharded.slices import Slices
from trainwright.errors import CheckpointError, UnsavableError
from trainwright.models.inspect import is_pretrained
from trainwright.parallel.boxes import box_of, is_spread, local

_COMPILED = "_orig_mod."


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of a model are spread over processes."""
    return any(is_spread(parameter) for parameter in model.parameters())


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
    stand_ins: dict[Any, torch.Tensor] = {}  # of the same shapes and ties, without the numbers
    for tensor in state.values():
        stand_ins.setdefault(identity(tensor), torch.empty(1, dtype=tensor.dtype).expand(tensor.shape))
    meant = {id(stand_ins[identity(tensor)]): tensor for tensor in state.values()}
    saved = weights.as_transformers_saves(model, {name: stand_ins[identity(tensor)] for name, tensor in state.items()})
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
    if is_sharded(model):
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


def index_of(tensors: dict[str, torch.Tensor], owner: dict[str, int], count: int) -> str:
    """Return the text of the index of a model's files, as transformers reads it."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    files = {name: layout.of_share(layout.WEIGHTS, layout.Share(owner[name], count)) for name in sorted(tensors)}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": files}, indent=2) + "\n"
