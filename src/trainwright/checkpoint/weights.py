"""A model's weights on disk: safetensors, in the layout of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainwright.errors import CheckpointError
from trainwright.models.inspect import is_adapter, is_pretrained

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"


def save_model(model: nn.Module, folder: Path, processing_class: Any = None) -> None:
    """Write weights, and configuration and tokenizer where there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_pretrained(model) or is_adapter(model):
        with _without_bars():
            model.save_pretrained(folder)  # type: ignore[operator]
    else:
        save_file(unique_tensors(model.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})
    if processing_class is not None:
        processing_class.save_pretrained(folder)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers' progress bar of a save out of the terminal and the log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def unique_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return a state dict in which tensors that share memory appear once, under their first name."""
    seen: set[tuple[Any, ...]] = set()
    unique = {}
    for name, tensor in state.items():
        key = _identity(tensor)
        if key not in seen:
            seen.add(key)
            unique[name] = tensor.detach().contiguous()
    return unique


def _identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())


def load_model(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint's weights into a model, in place.

    Raises:
        CheckpointError: the folder holds no weights, or weights of another architecture; nothing is changed then.
    """
    if is_adapter(model):
        _load_adapter(model, folder)
        return
    saved = _read(folder)
    own = model.state_dict()
    _check_fit(saved, own, folder)
    model.load_state_dict(saved, strict=False)


def _read(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / INDEX).exists():
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return {name: tensor for shard in sorted(shards) for name, tensor in load_file(folder / shard).items()}
    if (folder / WEIGHTS).exists():
        return load_file(folder / WEIGHTS)
    raise CheckpointError(f"{folder} holds no weights ({WEIGHTS} is missing); give a folder that a save has written.")


def _check_fit(saved: dict[str, torch.Tensor], own: dict[str, Any], folder: Path) -> None:
    tied = {_identity(own[name]) for name in saved if name in own}
    missing = [name for name, tensor in own.items() if name not in saved and _identity(tensor) not in tied]
    unknown = [name for name in saved if name not in own]
    shapes = [
        f"{name} {tuple(tensor.shape)} against {tuple(own[name].shape)}"
        for name, tensor in saved.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if missing or unknown or shapes:
        faults = [
            f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for what, names in (("missing", missing), ("not in the model", unknown), ("other shapes", shapes))
            if names
        ]
        raise CheckpointError(
            f"The checkpoint {folder} is of another architecture than the model ({'; '.join(faults)}). Build the "
            "model as it was when the checkpoint was written, or give another output_dir."
        )


def _load_adapter(model: nn.Module, folder: Path) -> None:
    from peft import set_peft_model_state_dict

    if not (folder / ADAPTER).exists():
        raise CheckpointError(f"{folder} holds no adapter ({ADAPTER} is missing), but the model is a PEFT model.")
    result = set_peft_model_state_dict(model, load_file(folder / ADAPTER))
    if result.unexpected_keys:
        raise CheckpointError(
            f"The adapter in {folder} does not fit the model: {', '.join(result.unexpected_keys[:3])}."
        )
