"""The gradients of one step, in a loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainwright.data.loaders.batches import weighed
from trainwright.errors import ConfigError, DataError
from trainwright.objectives.objective import Objective, check_loss
from trainwright.parallel.precision import Precision
from trainwright.parallel.strategy import Strategy


def forward_backward(
    model: nn.Module, micro_batches: Sequence[Any], objective: Objective, strategy: Strategy, precision: Precision
) -> torch.Tensor:
    """Add the gradients of one step's loss to the model's, whole on every process when it returns.

    All processes call it equally often. The loss is a mean over the items of all micro-batches of all processes, as
    `objective.count` counts them, so neither their number nor the sizes of micro-batches change it.

    Args:
        model: what `strategy.prepare` returned.
        micro_batches: this process's of the step, as `batches` gives them.

    Returns:
        This process's part of the loss, a scalar on its device, detached; `strategy.sum_tensor` makes the whole of it.

    Raises:
        ConfigError: what is given are no micro-batches or no objective, or nothing is trained by the loss.
        DataError: the objective returns another thing than a `Loss`.
    """
    _check(micro_batches, objective)
    counted = weighed(micro_batches, objective.count)
    total = strategy.sum_over_shards(sum(items for _, items in counted))
    loss = torch.zeros((), device=strategy.device)
    for number, (batch, items) in enumerate(counted, 1):
        last = number == len(counted)
        if items or strategy.needs_zero_weight_step(last):
            with strategy.accumulate(model, last):  # gradients are exchanged once a step
                with precision.autocast():
                    found = objective.loss(model, strategy.to_device(batch), total)
                    check_loss(objective, found)
                    _check_trained(model, objective, found.value)
                    share = found.value * bool(items)
                strategy.backward(share, precision)
            loss = loss + share.detach()
    strategy.finish_gradients([parameter for parameter in model.parameters() if parameter.requires_grad])
    return loss


def _check(micro_batches: Any, objective: Any) -> None:
    if not isinstance(objective, Objective):
        what = f"the class {objective.__name__}" if isinstance(objective, type) else f"a {type(objective).__name__}"
        raise ConfigError(
            f"The objective is {what}; an instance of a subclass of trainwright.Objective is expected, with count() "
            "and loss()."
        )
    if not isinstance(micro_batches, Sequence) or isinstance(micro_batches, str) or not micro_batches:
        what = "an empty list" if micro_batches == [] else f"a {type(micro_batches).__name__}"
        raise ConfigError(
            f"The micro-batches are {what}; a list of at least one batch is expected, as batches(...) gives it for "
            "each step, or [batch]."
        )


def _check_trained(model: nn.Module, objective: Objective, loss: torch.Tensor) -> None:
    if loss.numel() != 1:
        raise DataError(
            f"{type(objective).__name__}.loss returned a value of shape {tuple(loss.shape)}; it must be a scalar, the "
            "sum over the batch's items divided by num_items."
        )
    if not loss.requires_grad:
        frozen = not any(parameter.requires_grad for parameter in model.parameters())
        why = (
            "none of the model's parameters requires a gradient: set requires_grad_(True) on those to train"
            if frozen
            else "it was computed under torch.no_grad() or detached: compute it from what the model returns"
        )
        raise ConfigError(f"The loss of {type(objective).__name__} trains nothing, since {why}.")
