"""Models whose weights lie in their files until they are used: a process that keeps a part reads that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from trainwright.parallel.boxes import ALIKE


def mapped(make: Callable[[], nn.Module], files: Sequence[Path]) -> nn.Module | None:
    """Return a model with the weights of some files, which are mapped into memory: what is not looked at is not read.

    Args:
        make: makes the model; the weights that it draws are never there.
        files: of safetensors.

    Returns:
        The model; None where the files hold other tensors than it, by name, shape or number format.
    """
    with _without_weights():
        model = make()
    own: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    found: dict[str, torch.Tensor] = {}
    for file in files:
        found |= load_file(file)
    for name, tensor in found.items():
        if name not in own or (own[name].shape, own[name].dtype) != (tensor.shape, tensor.dtype):
            return None
    model.load_state_dict(found, strict=False, assign=True)
    tie: Any = getattr(model, "tie_weights", None)
    if tie is not None:
        tie()
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return None
    for parameter in model.parameters():
        setattr(parameter, ALIKE, True)
    for buffer in model.buffers():  # which stay whole, while a save may replace the files
        buffer.data = buffer.data.clone()
    return model


@contextmanager
def _without_weights() -> Iterator[None]:
    """Let modules that are made in the body have parameters without numbers; their buffers have them."""
    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = registered  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
