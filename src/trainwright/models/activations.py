"""Activations that are computed again in the backward pass: of every n-th layer, with their inputs in host memory, or
those that a share of their memory leaves no room for."""

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


def memory_budget(settings: Any) -> float | None:
    """Return which share of their activations compiled layers keep, from 0 to 1; None where it is not asked for.

    Args:
        settings: by name, of the recomputation; `memory_budget` stands alone.

    Raises:
        ConfigError: it is no such share, or does not stand alone.
    """
    share = settings.get("memory_budget")
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ConfigError(f"activation_checkpointing_kwargs: memory_budget={share!r} is no share from 0 to 1.")
    others = [name for name in settings if name != "memory_budget"]
    if others:
        raise ConfigError(
            f"activation_checkpointing_kwargs: memory_budget chooses what is computed again, and {others[0]} does too. "
            "Leave one of them out."
        )
    return float(share)


def within_budget(backend: str, share: float) -> Callable[..., Any]:
    """Return a backend of torch.compile that keeps a share of the activations' memory, and computes again what is cheap
    to (by torch's partitioner, a knapsack)."""

    def compiled(graph: Any, inputs: Any, **options: Any) -> Any:
        with torch._functorch.config.patch(activation_memory_budget=share):
            return torch._dynamo.lookup_backend(backend)(graph, inputs, **options)

    return compiled


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
