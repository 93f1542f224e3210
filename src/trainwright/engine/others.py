"""Parameters that the optimizer trains beside the model's, such as those of a loss: alike on all ranks, and saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from trainwright.checkpoint import folder, layout
from trainwright.errors import CheckpointError

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer


def of(trainer: Trainer) -> list[nn.Parameter]:
    """Return the parameters of the optimizer's groups that are not the model's."""
    own = {id(parameter) for parameter in trainer.model.parameters()}
    return [p for group in trainer.optimizer.param_groups for p in group["params"] if id(p) not in own]


def begin(trainer: Trainer) -> list[nn.Parameter]:
    """Return them, on all ranks with the values of the first."""
    found = of(trainer)
    if found and trainer.strategy.is_distributed:
        put(found, trainer.strategy.from_main([p.detach().cpu() for p in found]))
    return found


def state_of(trainer: Trainer) -> list[torch.Tensor]:
    """Return what a checkpoint keeps of them."""
    return [parameter.detach() for parameter in of(trainer)]


def restore(trainer: Trainer, place: Path) -> None:
    """Go on with what a checkpoint keeps of them.

    Raises:
        CheckpointError: it keeps others.
    """
    found, file = of(trainer), place / layout.OTHERS
    if not found:
        return
    if not file.exists():
        trainer.note(
            f"'{place}' does not hold the parameters that the optimizer trains beside the model's (in number: "
            f"{len(found)}); they begin anew."
        )
        return
    kept = folder.load(file)
    shapes, now = ([tuple(one.shape) for one in these] for these in (kept, found))
    if shapes != now:
        raise CheckpointError(
            f"What the optimizer trains beside the model is not what '{place}' holds: shapes {shapes} -> {now}. Put it "
            "back, or load the model from there and start a new run."
        )
    put(found, kept)


@torch.no_grad()
def put(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    """Copy values into parameters."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
