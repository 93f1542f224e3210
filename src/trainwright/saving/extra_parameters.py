"""Parameters that the optimizer trains beside the model's, such as those of a loss: alike on all ranks, and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from trainwright.checkpoint import layout
from trainwright.checkpoint.parts import Exchange, Part
from trainwright.errors import CheckpointError
from trainwright.session.nonfinite import some
from trainwright.session.session import Session


def of(session: Session) -> list[nn.Parameter]:
    """Return the parameters of the optimizer's groups that are not the model's."""
    own = {id(parameter) for parameter in session.model.parameters()}
    return [p for group in session.optimizer.param_groups for p in group["params"] if id(p) not in own]


def begin(session: Session) -> list[nn.Parameter]:
    """Return them, on all ranks with the values of the first; say which are not among them."""
    tell_of_untrained(session)
    found = of(session)
    if found and session.strategy.is_distributed:
        put(found, session.strategy.from_main([p.detach().cpu() for p in found]))
    return found


def tell_of_untrained(session: Session) -> None:
    """Say which parameters of the user's objective require gradients and are trained by nobody."""
    objective = session.own_objective
    if objective is None:
        return
    parts = {"": objective} if isinstance(objective, nn.Module) else vars(objective)
    held = {id(p) for group in session.optimizer.param_groups for p in group["params"]}
    held |= {id(p) for p in session.model.parameters()}
    missing = [
        f"{name}.{path}".lstrip(".")
        for name, one in parts.items()
        if isinstance(one, nn.Module) and one is not objective.reference
        for path, parameter in one.named_parameters()
        if parameter.requires_grad and id(parameter) not in held
    ]
    if missing:
        session.note(
            f"Not trained, since no group of the optimizer holds them, though they require gradients: {some(missing)} "
            f"of {type(objective).__name__}. Give an optimizer that holds them (optimizers=), or freeze them "
            "(requires_grad_(False))."
        )


def part(session: Session, place: Path | None) -> Part:
    """Return what a checkpoint keeps of them; `place` is the checkpoint that is gone on from."""

    def kept() -> list[torch.Tensor]:
        return [parameter.detach() for parameter in of(session)]

    def go_on(state: list[torch.Tensor]) -> None:
        if found := of(session):
            check(state, found, place)
            put(found, state)

    def tell(alone: bool) -> None:
        if found := of(session):
            session.note(
                f"'{place}' does not hold the parameters that the optimizer trains beside the model's (in number: "
                f"{len(found)}); they begin anew."
            )

    title = "What is trained beside the model"
    return Part(state=Exchange(kept, go_on), title=title, file=layout.OTHERS, with_model=True, lacking=tell)


def check(kept: list[torch.Tensor], found: list[nn.Parameter], place: Path | None) -> None:
    """See whether a checkpoint keeps what is trained beside the model now.

    Raises:
        CheckpointError: it keeps others.
    """
    shapes, now = ([tuple(one.shape) for one in these] for these in (kept, found))
    if shapes != now:
        raise CheckpointError(
            f"What the optimizer trains beside the model is not what '{place}' holds: shapes {shapes} -> {now}. Put it "
            "back, or load the model from there and start a new run."
        )


@torch.no_grad()
def put(parameters: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    """Copy values into parameters."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
