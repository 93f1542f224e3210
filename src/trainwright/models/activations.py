"""Activations that are computed again in the backward pass: of every n-th layer, with their inputs in host memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu

from trainwright.errors import ConfigError


def checkpoint_activations(model: nn.Module, settings: Any) -> None:
    """Let a model recompute its activations in the backward pass.

    Args:
        model: one that knows how, as transformers' do.
        settings: by name, of torch's checkpoint; `every`, so that of every n layers the first alone recomputes, which
            takes more memory and less time; `offload`, so that what a layer begins its recomputation with waits in host
            memory.

    Raises:
        ConfigError: the model cannot, or not so.
    """
    given = dict(settings)
    every, offload = given.pop("every", 1), given.pop("offload", False)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ConfigError(f"activation_checkpointing_kwargs: every={every!r} is no number of layers from 1 on.")
    _enable(model, given)
    if every == 1 and not offload:
        return
    layers = _layers(model)
    if len(layers) < 2:
        raise ConfigError(
            f"activation_checkpointing_kwargs: the layers of {type(model).__name__} do not recompute one by one, which "
            "every and offload are about. Leave them out."
        )
    for number, layer in enumerate(layers):
        if number % every:
            layer.gradient_checkpointing = False
        elif offload:
            layer._gradient_checkpointing_func = _offloaded(layer)


def _enable(model: nn.Module, settings: dict[str, Any]) -> None:
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        enable = getattr(model, name, None)
        if enable is not None:
            enable(settings or {"use_reentrant": False})
            return
    raise ConfigError(
        f"activation_checkpointing needs a model that supports it; {type(model).__name__} has no "
        "activation_checkpointing_enable. Use torch.utils.checkpoint in its forward instead."
    )


def _layers(model: nn.Module) -> list[Any]:
    """Return the layers that recompute, each by itself."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    parts = (part for part in model.modules() if isinstance(part, GradientCheckpointingLayer))
    return [part for part in parts if part.gradient_checkpointing]


def _offloaded(layer: Any) -> Callable[..., Any]:
    """Return a layer's checkpoint, which keeps the layer's inputs in host memory, pinned where a GPU is copied from."""
    recompute, pinned = layer._gradient_checkpointing_func, any(p.is_cuda for p in layer.parameters())

    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        with save_on_cpu(pin_memory=pinned):
            found: torch.Tensor = recompute(*args, **kwargs)
            return found

    return run
