"""The output layer of a causal language model: where the logits come from, and how to go without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional

from trainwright.models.hooks import own_forward, owners, replaced_loss, watched
from trainwright.models.inspect import base_model, is_pretrained, shifts_labels
from trainwright.parallel.layouts.boxes import is_divided, is_spread, slice_held, undivided


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

    def of_rows(
        self, loss: Callable[..., torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor, watch: Any
    ) -> torch.Tensor:
        """Return a loss of rows: of processes that divide the layer's classes, each computes with its own; of those
        that hold them all, or divide something else, with the rows of its own.

        Args:
            loss: called with hidden states, weight and targets, and `bias=`, `watch=`, `held=`; returns the sum over
                rows, or a number of each.
            hidden: what the layer is called with, shape (rows, width).
            targets: classes, shape (rows,).
            watch: what else is noted of every row, by name, each of shape (rows,); or None.
        """
        weight: Any = self.layer.weight
        bias: Any = self.layer.bias
        if not is_divided(weight):
            return loss(hidden, weight, targets, bias=bias, watch=watch)
        if (held := slice_held(weight)) is not None:
            rows = _Alike.apply(hidden, held.group)  # type: ignore[no-untyped-call]  # torch gives it no type
            own = bias if bias is None else bias.to_local()
            return loss(rows, weight.to_local(), targets, bias=own, watch=watch, held=held)
        return self._of_own_rows(loss, hidden, targets, watch)

    def _of_own_rows(
        self, loss: Callable[..., torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor, watch: Any
    ) -> torch.Tensor:
        weight: Any = self.layer.weight
        group, count = weight.device_mesh.get_group(), len(hidden)
        each = -(-count // group.size())
        start, end = (min(each * rank, count) for rank in (group.rank(), group.rank() + 1))
        whole = [None if one is None else undivided(one, adds_up=True) for one in (weight, self.layer.bias)]
        noted = None if watch is None else {name: values[start:end] for name, values in watch.items()}
        rows: torch.Tensor = _Alike.apply(hidden, group)  # type: ignore[no-untyped-call]  # torch gives it no type
        own = loss(rows[start:end], whole[0], targets[start:end], bias=whole[1], watch=noted)
        for values in (watch or {}).values():
            values[:start] = values[end:] = 0
            distributed.all_reduce(values, group=group)
        own = own if own.ndim == 0 else functional.pad(own, (start, count - end))
        found: torch.Tensor = _Added.apply(own, group)  # type: ignore[no-untyped-call]  # torch gives it no type
        return found

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


class _Alike(torch.autograd.Function):
    """What is the same on some processes, and of which each computes with a part."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _Added(torch.autograd.Function):
    """The sum of what some processes computed, with which all go on alike."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        total = tensor.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


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
