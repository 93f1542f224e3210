"""The output layer of a causal language model: where the logits come from, and how to go without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright.models.hooks import own_forward, owners, replaced_loss, watched
from trainwright.models.inspect import base_model, is_pretrained, shifts_labels
from trainwright.parallel.boxes import is_spread, undivided


@dataclass(frozen=True)
class Head:
    """A linear output layer, and what the model does to its logits.

    Attributes:
        layer: the layer; logits are layer(hidden) × scale, bent to stay within ±cap.
        scale: the factor.
        cap: the bound, or None.
        parts: the modules whose forward knows of labels or logits: the model, those within it that hold the layer, and
            the layer.
    """

    layer: nn.Linear
    scale: float = 1.0
    cap: float | None = None
    parts: tuple[nn.Module, ...] = ()

    @property
    def weight(self) -> torch.Tensor:
        """The layer's matrix, whole."""
        return undivided(self.layer.weight)

    @property
    def bias(self) -> torch.Tensor | None:
        """The layer's bias, whole."""
        return None if self.layer.bias is None else undivided(self.layer.bias)

    @contextmanager
    def intercepted(self) -> Iterator[list[torch.Tensor]]:
        """Give the layer no position to work on, and collect the hidden states it was called with; one that several
        processes compute together cannot do without any."""
        seen: list[torch.Tensor] = []
        least = int(is_spread(self.layer.weight))

        def keep(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            seen.append(given[0])
            return (given[0][..., :least, :],)

        handle = self.layer.register_forward_pre_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()


def language_head(model: nn.Module) -> Head | str:
    """Return the head of a causal language model of transformers, or why there is none to go without."""
    inner: Any = base_model(model)
    if not is_pretrained(inner) or not shifts_labels(model):
        return "the model is not a causal language model of transformers"
    layer = inner.get_output_embeddings()
    if type(layer) is not nn.Linear:
        return f"its output layer is {type(layer).__name__}, not a plain Linear"
    parts = (*owners(model, layer), layer)
    if reason := asks_for_logits(parts) or own_loss(inner):
        return reason
    config = inner.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    divisor = float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(layer, scale / divisor, getattr(config, "final_logit_softcapping", None), parts)


def score_layer(model: nn.Module) -> nn.Module | None:
    """Return the layer of a sequence classifier that gives every token a score, of which one is taken; None where it
    has none, as with encoders, whose first token stands for all."""
    layer = getattr(base_model(model), "score", None)
    return layer if isinstance(layer, nn.Module) else None


@dataclass(frozen=True)
class Scores:
    """The layer of scores as an output layer that is only watched: it works on all positions.

    Attributes:
        layer: the layer.
    """

    layer: nn.Module
    scale: float = 1.0
    cap: float | None = None
    parts: tuple[nn.Module, ...] = ()

    @contextmanager
    def intercepted(self) -> Iterator[list[torch.Tensor]]:
        """Collect the hidden states that the layer is called with."""
        seen: list[torch.Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
        try:
            yield seen
        finally:
            handle.remove()


def own_loss(model: nn.Module) -> str | None:
    """Return what may make a model's loss another than transformers' cross-entropy, in words; None for nothing. A small
    batch does not tell: the rule may concern a rare token."""
    if own_forward(model):
        return f"{type(model).__name__} has a forward of its own, whose loss may be another or ask for the logits"
    replaced = replaced_loss(model)
    return None if replaced is None else f"the loss is computed by {replaced}, which is not transformers' own"


def asks_for_logits(parts: Sequence[nn.Module]) -> str | None:
    """Return what a user has put around an output layer or the modules that hold it, in words; None for nothing."""
    if watched(parts[-1:]) is not None:
        return "its output layer has hooks"
    around = watched(parts[:-1])
    return None if around is None else f"{around}, which may ask for labels, loss or logits"
