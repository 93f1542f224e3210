"""A model's weights on disk: safetensors, in the layout of transformers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn

from trainwright.checkpoint.layout import WEIGHTS
from trainwright.checkpoint.model import adapters
from trainwright.checkpoint.model.tensors import check_fit, identity, missing, read, refuse, unique_tensors
from trainwright.errors import CheckpointError
from trainwright.models.inspect import holds_adapters, is_pretrained, loads_itself, own_classes

_COMPILED = "_orig_mod."  # before the names, where the wrapper of torch.compile was saved


def save_model(
    model: nn.Module,
    folder: Path,
    processing_class: Any = None,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write weights, those of the model or others given for them, and configuration and tokenizer if there are any;
    adapters as they are used."""
    folder.mkdir(parents=True, exist_ok=True)
    if state_dict is not None and hasattr(model, "save_pretrained"):
        with _without_bars():
            model.save_pretrained(folder, state_dict=state_dict)  # type: ignore[operator]  # a PreTrainedModel
    elif holds_adapters(model):
        with _without_bars():
            adapters.export(model, folder)
    elif is_pretrained(model):
        with _without_bars():
            model.save_pretrained(folder)  # type: ignore[operator]  # a PreTrainedModel
    else:
        given = model.state_dict() if state_dict is None else state_dict
        save_file(unique_tensors(given), folder / WEIGHTS, metadata={"format": "pt"})
    if processing_class is not None:
        processing_class.save_pretrained(folder)


def save_all_but_tensors(model: nn.Module, folder: Path, processing_class: Any) -> dict[str, torch.Tensor] | None:
    """Write configuration and tokenizer, and return the tensors that `model.safetensors` is to hold.

    Returns:
        The tensors, still the model's own memory; None where the model writes its weights itself (adapters, quantized
        and offloaded models), and they are written now.
    """
    if not is_pretrained(model):
        tensors = None if holds_adapters(model) else unique_tensors(model.state_dict())
    else:
        tensors = _as_transformers_saves(model)
    if tensors is None and holds_adapters(model):
        with _without_bars():
            adapters.save(model, folder)
    elif tensors is None:
        save_model(model, folder)
    else:
        save_configuration(model, folder)
    if processing_class is not None:
        processing_class.save_pretrained(folder)
    return tensors


def save_configuration(model: nn.Module, folder: Path) -> None:
    """Write what a model of transformers has besides its weights."""
    if is_pretrained(model):
        with _without_bars():
            model.save_pretrained(folder, state_dict={})  # type: ignore[operator]  # a PreTrainedModel


def _as_transformers_saves(model: Any) -> dict[str, torch.Tensor] | None:
    """Return what `save_pretrained` would write: ties once, under the names of the architecture's files."""
    own_way = ("hf_quantizer", "_tp_size", "_hf_peft_config_loaded", "hf_device_map")
    if any(getattr(model, name, None) for name in own_way):
        return None
    return {
        name: tensor.detach().contiguous() for name, tensor in as_transformers_saves(model, model.state_dict()).items()
    }


def as_transformers_saves(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what `save_pretrained` would write of a model's state."""
    return in_file_form(model, kept_in_files(model, state))


def kept_in_files(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what a model's files keep of its state, by the names in memory: ties once, without what is computed."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    left_out = _left_out(model)
    state = {name: tensor for name, tensor in state.items() if name not in left_out}
    kept: dict[str, torch.Tensor] = remove_tied_weights_from_state_dict(state, model)
    return kept


def in_file_form(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors under the names, and in the shapes, that the files of a model of transformers have them in."""
    from transformers.core_model_loading import revert_weight_conversion

    with own_classes(model):
        saved: dict[str, torch.Tensor] = revert_weight_conversion(model, state)
    return saved


def _left_out(model: nn.Module) -> set[str]:
    """Return the names of what a model of transformers leaves out of its files, since it ties or computes it; not what
    is trained under that name alone, which would be lost."""
    names = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    if not names:
        return names
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    kept = {identity(tensor) for name, tensor in state.items() if name not in names}
    lost = {n for n in names & state.keys() if state[n].requires_grad and identity(state[n]) not in kept}
    return names - lost


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


def load_model(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint's weights into a model, in place.

    A buffer takes the saved shape, as it may grow in training, such as a memory of what was seen. A model with its own
    way of loading (`load_state_dict`, or hooks of it) is asked before its shapes are judged.

    Raises:
        CheckpointError: the folder holds no weights, or weights of another architecture; nothing is changed then, but
            by a model that loads them in its own way.
    """
    if holds_adapters(model):
        adapters.load(model, folder)
        return
    saved = read(folder, "model")
    if saved is None:
        raise CheckpointError(
            f"{folder} holds no weights of a whole model ({WEIGHTS} is missing); give a folder that a save wrote, "
            "and where it holds adapters, a model that has them."
        )
    versions = getattr(saved, "_metadata", None)
    saved = {name.removeprefix(_COMPILED): tensor for name, tensor in saved.items()}
    own = _expected(model, saved)
    if is_pretrained(model) and saved.keys() - own.keys():
        saved = _in_memory_form(model, folder, saved)
    saved = _with_versions(model, saved, versions)
    if loads_itself(model):
        _load_itself(model, saved, folder)
        return
    others = list(_buffers_of_another_shape(model, saved))
    check_fit(saved, {**own, **{path: saved[path] for path, _, _ in others}}, folder)
    for path, module, name in others:
        now, value = module._buffers[name], saved[path]
        like = next(model.parameters(), value) if now is None else now
        module._buffers[name] = value.to(like.device, value.dtype if now is None else now.dtype, copy=True)
    model.load_state_dict(saved, strict=False)


def _buffers_of_another_shape(model: nn.Module, saved: dict[str, torch.Tensor]) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield path, module and name of the buffers that have grown or come into being since the model was built."""
    for prefix, module in model.named_modules():
        for name, now in module._buffers.items():
            path = f"{prefix}.{name}" if prefix else name
            if path in saved and (now is None or now.shape != saved[path].shape):
                yield path, module, name


def _with_versions(model: nn.Module, saved: dict[str, torch.Tensor], versions: Any) -> dict[str, torch.Tensor]:
    """Return weights with the versions of the modules that wrote them, without which a module takes them for those of
    an older one and translates them; safetensors keeps none, so they are today's."""
    state: Any = OrderedDict(saved)
    versions = getattr(model.state_dict(), "_metadata", None) if versions is None else versions
    if versions is not None:
        state._metadata = versions
    return cast(dict[str, torch.Tensor], state)


def _expected(model: nn.Module, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a model's tensors without those that its files need not hold, and do not."""
    left_out = _left_out(model) - saved.keys()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}


def _load_itself(model: nn.Module, saved: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        result = model.load_state_dict(saved, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"The checkpoint {folder} cannot be loaded by {type(model).__name__}: {reason}"
        ) from error
    lacks = missing(saved, _expected(model, saved)) if result else []
    refuse(folder, lacks, list(getattr(result, "unexpected_keys", ())), [])


def _in_memory_form(model: Any, folder: Path, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights whose names or shapes on disk are not those in memory (experts, for one) as the model has them."""
    if saved.keys() - in_file_form(model, dict(model.state_dict())).keys():
        return saved  # another architecture
    return as_in_memory(model, folder)


def as_in_memory(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a folder as a model of transformers has them, whole."""
    with _without_bars(), own_classes(model):
        weights: dict[str, torch.Tensor] = type(model).from_pretrained(folder, dtype=model.dtype).state_dict()
    return weights
