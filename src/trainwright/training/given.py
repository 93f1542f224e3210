"""Whether what a user gave for training, an optimizer, a schedule, modules, is of this model; seen before the first
step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainwright.errors import ConfigError
from trainwright.session.nonfinite import some
from trainwright.session.session import Session

_KEPT_KINDS = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.amp.GradScaler)


def check_optimizer(session: Session) -> None:
    """Check that a user's optimizer holds parameters of the model; say which it does not hold.

    Raises:
        ConfigError: it holds none, so that nothing of the model would be trained.
    """
    held = {id(p) for group in session.optimizer.param_groups for p in group["params"]}
    trained = {name: id(p) for name, p in session.model.named_parameters() if p.requires_grad}
    missing = [name for name, one in trained.items() if one not in held]
    if trained and len(missing) == len(trained):
        raise ConfigError(
            f"The optimizer {type(session.optimizer).__name__} holds none of the {len(trained)} parameters that the "
            "model trains: it was made for another model, or before this one was copied or changed. Make it from the "
            "model that the Trainer has, or model.requires_grad_(False) where the model is not to be trained."
        )
    if missing:
        session.note(
            f"Not trained, since no group of the optimizer holds them, though they require gradients: {some(missing)}. "
            "Give an optimizer that holds them (optimizers=), or freeze them (requires_grad_(False))."
        )


def check_schedule(session: Session) -> None:
    """Check that a user's schedule sets the learning rates of the optimizer that trains.

    Raises:
        ConfigError: it sets those of another one.
    """
    other = getattr(session.lr_scheduler, "optimizer", None)
    if not isinstance(other, torch.optim.Optimizer):
        return
    trains = {id(group) for group in session.optimizer.param_groups}
    if not any(id(group) in trains for group in other.param_groups):
        raise ConfigError(
            f"The schedule {type(session.lr_scheduler).__name__} sets the learning rates of another optimizer than the "
            "one that trains. Give both, optimizers=(optimizer, schedule of that optimizer), or override "
            "create_scheduler."
        )


def tell_of_unkept_state(session: Session) -> None:
    """Say which optimizers and schedules a subclass has that no checkpoint keeps."""
    kept = {id(part) for part in (session.optimizer, session.lr_scheduler, *session.checkpoint_parts.values())}
    lost = [
        (name, value)
        for name, value in vars(session.hooks).items()
        if isinstance(value, _KEPT_KINDS) and id(value) not in kept
    ]
    if lost and session.args.save_strategy != "no":
        names = ", ".join(f"self.{name} ({type(value).__name__})" for name, value in lost)
        session.note(
            f"No checkpoint keeps {names}, so a resumed run begins with it anew. Keep it: "
            f"self.checkpoint_parts['{lost[0][0]}'] = self.{lost[0][0]}, before training begins."
        )


def tell_of_hidden_parameters(session: Session) -> None:
    """Say which parameters lie in a list, tuple or dict of a module, where torch does not see them."""
    known = {id(parameter) for parameter in session.model.parameters()}
    known |= {id(p) for group in session.optimizer.param_groups for p in group["params"]}
    hidden = [
        f"{path}.{name}".lstrip(".")
        for path, module in session.model.named_modules()
        for name, value in vars(module).items()
        if any(p.requires_grad and id(p) not in known for p in _parameters_in(value))
    ]
    if hidden:
        session.note(
            "Not trained, moved or saved, since torch does not see what lies in a plain list, tuple or dict: "
            f"{some(hidden)}. Use nn.ModuleList, nn.ModuleDict or nn.ParameterList; or freeze what is not to be "
            "trained (requires_grad_(False))."
        )


def _parameters_in(value: Any) -> Iterator[nn.Parameter]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        if isinstance(part, nn.Parameter):
            yield part
        elif isinstance(part, nn.Module):
            yield from part.parameters()
