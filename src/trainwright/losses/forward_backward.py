"""The gradients of one step, in a loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainwright.data.loaders.batches import weighed
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
    """
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
                    share = found.value * bool(items)
                strategy.backward(share, precision)
            loss = loss + share.detach()
    strategy.finish_gradients([parameter for parameter in model.parameters() if parameter.requires_grad])
    return loss
