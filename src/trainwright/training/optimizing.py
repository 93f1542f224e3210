"""The Trainer's optimizer and schedule: given by the user, or made from the arguments."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from trainwright.args.names import METRIC_SCHEDULERS
from trainwright.args.signatures import check_returned, is_of
from trainwright.errors import ConfigError
from trainwright.models.inspect import parameter_count
from trainwright.optim.optimizers import build_optimizer
from trainwright.optim.parameters import decay_parameter_names, parameter_groups
from trainwright.optim.schedules import build_scheduler
from trainwright.session.session import Hooks, Session
from trainwright.training import given, users_code


def make(session: Session, num_training_steps: int) -> None:
    """Make what a run needs of the two; what the user gave or made before stays, what an earlier run made does not."""
    for name, made in session.created.items():
        if getattr(session, name) is made:
            setattr(session, name, None)
    before = {"optimizer": session.optimizer, "lr_scheduler": session.lr_scheduler}
    session.hooks.create_optimizer_and_scheduler(num_training_steps=num_training_steps)
    _check_made(session.hooks, "optimizer", session.optimizer, "param_groups")
    _check_made(session.hooks, "lr_scheduler", session.lr_scheduler, "step")
    session.created = {name: getattr(session, name) for name, had in before.items() if had is None}
    if before["optimizer"] is not None or not is_of(session.hooks.create_optimizer, "trainwright"):
        given.check_optimizer(session)
    given.check_schedule(session)
    given.tell_of_hidden_parameters(session)
    # A first step that is left out moves the schedule on all the same, which torch would take for a mistake.
    session.optimizer._opt_called = True


def _check_made(hooks: Hooks, name: str, made: Any, part: str) -> None:
    """Raise a ConfigError where the user's methods leave none that a run can work with."""
    method = {"optimizer": "create_optimizer", "lr_scheduler": "create_scheduler"}[name]
    if not hasattr(made, part):
        raise ConfigError(
            f"{type(hooks).__name__}.{method} has left self.{name} = {made!r:.80}; it must set self.{name} to what has "
            f"{part}."
        )


def create_optimizer(session: Session, model: nn.Module | None) -> torch.optim.Optimizer:
    """Make the optimizer over the trainable parameters, unless there is one."""
    if session.optimizer is None:
        model = session.model if model is None else model
        decayed = session.hooks.get_decay_parameter_names(model)
        named = isinstance(decayed, Collection) and all(isinstance(one, str) for one in decayed)
        name = f"{type(session.hooks).__name__}.get_decay_parameter_names"
        check_returned(named, decayed, name, "names of parameters")
        groups = parameter_groups(model, decayed, session.args.weight_decay)
        chosen = session.optimizer_cls_and_kwargs
        choice = chosen if chosen is not None else session.hooks.get_optimizer_cls_and_kwargs(session.args, model)
        name = f"{type(session.hooks).__name__}.get_optimizer_cls_and_kwargs"
        check_returned(users_code.is_choice(choice), choice, name, "(class, keywords)")
        session.optimizer = build_optimizer(choice, model, groups)
    optimizer: torch.optim.Optimizer = session.optimizer
    return optimizer


def create_scheduler(session: Session, num_training_steps: int, optimizer: torch.optim.Optimizer | None) -> Any:
    """Make the schedule over the optimizer, unless there is one."""
    if session.lr_scheduler is None:
        args, optimizer = session.args, session.optimizer if optimizer is None else optimizer
        _check_made(session.hooks, "optimizer", optimizer, "param_groups")
        session.lr_scheduler = build_scheduler(
            args.lr_scheduler_type,
            optimizer,
            args.get_warmup_steps(num_training_steps),
            num_training_steps,
            plateau_settings(args),
        )
    return session.lr_scheduler


def plateau_settings(args: Any) -> dict[str, Any] | None:
    """Return the schedule's settings; one that follows a metric also learns in which direction it improves."""
    given = dict(args.lr_scheduler_kwargs or {})
    if args.lr_scheduler_type in METRIC_SCHEDULERS:
        given.setdefault("mode", "max" if args.greater_is_better else "min")
    return given or None


def follows_metric(scheduler: Any) -> bool:
    """Whether a schedule moves at evaluations, by their metric, and not at every step."""
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) or type(scheduler).__name__ == "GreedyLR"


def get_decay_parameter_names(session: Session, model: nn.Module) -> list[str]:
    """Return the names of the parameters that weight decay applies to: all but biases and norms."""
    return decay_parameter_names(model)


def get_learning_rates(session: Session) -> list[float]:
    """Return the present learning rate of every parameter group."""
    return [float(group["lr"]) for group in _optimizer(session.optimizer).param_groups]


def get_num_trainable_parameters(session: Session) -> int:
    """Return the number of parameters that are trained."""
    return parameter_count(session.model, trainable_only=True)


def get_optimizer_group(session: Session, param: nn.Parameter | None = None) -> Any:
    """Return the optimizer's group of a parameter; all groups without one."""
    groups = _optimizer(session.optimizer).param_groups
    if param is None:
        return [group["params"] for group in groups]
    return next((group for group in groups if any(p is param for p in group["params"])), None)


def _optimizer(optimizer: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    """Return the optimizer that there is."""
    if optimizer is None:
        raise ValueError("There is no optimizer yet; call train() or create_optimizer() first.")
    return optimizer
