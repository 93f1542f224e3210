"""Files of tensors: what goes into one, what is read from one, and whether it fits a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from trainwright.checkpoint import folder as folders
from trainwright.errors import CheckpointError
from trainwright.parallel.layouts.boxes import is_spread


def unique_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return a state dict in which tensors that share memory appear once, under their first name."""
    seen: set[tuple[Any, ...]] = set()
    unique = {}
    for name, tensor in state.items():
        key = identity(tensor)
        if key not in seen:
            seen.add(key)
            unique[name] = tensor.detach().contiguous()
    return unique


def identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return what two tensors have in common when they are the same memory, read in the same way; those that are spread
    over processes, when they are the same object."""
    if tensor.numel() == 0 or is_spread(tensor):
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())


def read(folder: Path, name: str) -> dict[str, torch.Tensor] | None:
    """Return the tensors of `<name>.safetensors`, whole or in shards; None where there are none.

    `name` may be two: the second is that of the older files, `<name>.bin`, of which nothing but tensors is unpickled.

    Raises:
        CheckpointError: an older file cannot be read.
    """
    for file, load in ((f"{name}.safetensors", load_file), (f"{older(name)}.bin", folders.load)):
        if (folder / f"{file}.index.json").exists():
            index = json.loads((folder / f"{file}.index.json").read_text(encoding="utf-8"))
            shards = sorted(set(index["weight_map"].values()))
            return {key: tensor for shard in shards for key, tensor in load(folder / shard).items()}
        if (folder / file).exists():
            return load(folder / file)
    return None


def older(name: str) -> str:
    """Return what a file of weights was called before there was safetensors."""
    return "pytorch_model" if name == "model" else name


def check_fit(saved: dict[str, torch.Tensor], own: dict[str, Any], folder: Path) -> None:
    """Compare names and shapes of saved tensors with a model's own.

    Raises:
        CheckpointError: they are not the same.
    """
    shapes = [
        f"{name} {tuple(tensor.shape)} against {tuple(own[name].shape)}"
        for name, tensor in saved.items()
        if name in own and tensor.shape != own[name].shape
    ]
    refuse(folder, missing(saved, own), [name for name in saved if name not in own], shapes)


def missing(saved: dict[str, torch.Tensor], own: dict[str, Any]) -> list[str]:
    """Return the names of the model's tensors that are not saved, under no name."""
    tied = {identity(own[name]) for name in saved if name in own}
    return [name for name, tensor in own.items() if name not in saved and identity(tensor) not in tied]


def refuse(folder: Path, missing: list[str], unknown: list[str], shapes: list[str]) -> None:
    """Say what of a checkpoint does not fit.

    Raises:
        CheckpointError: anything does not.
    """
    faults = [
        f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("not in the model", unknown), ("other shapes", shapes))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"The checkpoint {folder} is of another architecture than the model ({'; '.join(faults)}). Build the "
            "model as it was when the checkpoint was written, or give another output_dir."
        )
