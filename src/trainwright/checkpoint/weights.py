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


def save_all_but_tensors(model: nn.Module, folder: Path, processing_class: Any) -> dict[str, torch.Tensor] | None:
    """Write configuration and tokenizer, and return the tensors that `model.safetensors` is to hold.

    Returns:
        The tensors, still the model's own memory; None where the model writes its weights itself (adapters, quantized
        and offloaded models), and they are written now.
    """
    if not is_pretrained(model):
        tensors = None if is_adapter(model) else unique_tensors(model.state_dict())
    else:
        tensors = _as_transformers_saves(model)
    if tensors is None:
        save_model(model, folder, processing_class)
        return None
    if is_pretrained(model):
        with _without_bars():
            model.save_pretrained(folder, state_dict={})  # type: ignore[operator]
    if processing_class is not None:
        processing_class.save_pretrained(folder)
    return tensors


def _as_transformers_saves(model: Any) -> dict[str, torch.Tensor] | None:
    """Return what `save_pretrained` would write: ties once, under the names of the architecture's files."""
    own_way = ("hf_quantizer", "_tp_size", "_hf_peft_config_loaded", "hf_device_map")
    if any(getattr(model, name, None) for name in own_way):
        return None
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    state = revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


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
    if is_pretrained(model) and saved.keys() - own.keys():
        saved = _in_memory_form(model, folder, saved)
    _check_fit(saved, own, folder)
    model.load_state_dict(saved, strict=False)


def _read(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / INDEX).exists():
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return {name: tensor for shard in sorted(shards) for name, tensor in load_file(folder / shard).items()}
    if (folder / WEIGHTS).exists():
        return load_file(folder / WEIGHTS)
    raise CheckpointError(f"{folder} holds no weights ({WEIGHTS} is missing); give a folder that a save has written.")


def _in_memory_form(model: Any, folder: Path, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights whose names or shapes on disk are not those in memory (experts, for one) as the model has them."""
    from transformers.core_model_loading import revert_weight_conversion

    on_disk = revert_weight_conversion(model, dict(model.state_dict()))
    if saved.keys() - on_disk.keys():
        return saved  # another architecture
    with _without_bars():
        return type(model).from_pretrained(folder, dtype=model.dtype).state_dict()


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
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    if not (folder / ADAPTER).exists():
        raise CheckpointError(f"{folder} holds no adapter ({ADAPTER} is missing), but the model is a PEFT model.")
    result = set_peft_model_state_dict(model, load_file(folder / ADAPTER))
    own = get_peft_model_state_dict(model)
    unknown = [name for name in result.unexpected_keys if name not in own]  # those of tied layers are written twice
    if unknown:
        raise CheckpointError(f"The adapter in {folder} does not fit the model: {', '.join(unknown[:3])}.")
