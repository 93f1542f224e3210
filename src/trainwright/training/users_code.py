"""Whether the user's code can be called as the engine calls it, seen before work starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainwright.args.signatures import check_call, check_overrides, is_of
from trainwright.errors import ConfigError
from trainwright.objectives.objective import Objective
from trainwright.session.session import Session

# What methods of the Trainer are called with, by place and by name, where a subclass or the instance has its own.
_TRAINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "training_step": (("model", "inputs", "num_items_in_batch"), ()),
    "compute_loss": (("model", "inputs"), ()),
    "compute_loss_context_manager": ((), ()),
    "_prepare_inputs": (("inputs",), ()),
    "floating_point_ops": (("inputs",), ()),
    "get_train_dataloader": ((), ()),
    "create_optimizer_and_scheduler": ((), ("num_training_steps",)),
    "create_optimizer": ((), ()),
    "create_scheduler": ((), ("num_training_steps", "optimizer")),
    "get_decay_parameter_names": (("model",), ()),
    "get_optimizer_cls_and_kwargs": (("args", "model"), ()),
    "log": (("logs",), ()),
}
_EVALUATES = {
    "get_eval_dataloader": (("eval_dataset",), ()),
    "evaluation_loop": (("dataloader",), ("description", "prediction_loss_only", "ignore_keys", "metric_key_prefix")),
    "prediction_step": (("model", "inputs", "prediction_loss_only"), ("ignore_keys",)),
}
_EVALUATES_BETWEEN = {"evaluate": ((), ("ignore_keys",))}
_SAVES = {"save_model": (("output_dir",), ("_internal_call",))}


def check(session: Session) -> None:
    """Check what was given: functions, overridden methods, and the objective.

    Raises:
        ConfigError: what cannot be called as it will be.
    """
    args, evaluates = session.args, session.eval_dataset is not None or session.eval_loader is not None
    calls = {
        **_TRAINS,
        **(_EVALUATES if evaluates else {}),
        **(_EVALUATES_BETWEEN if args.eval_strategy != "no" else {}),
        **(_SAVES if args.save_strategy != "no" else {}),
    }
    for name, (given, by_name) in calls.items():
        method = getattr(session.hooks, name)
        if not is_of(method, "trainwright"):
            check_call(method, f"{type(session.hooks).__name__}.{name}", given, by_name)
    _check_functions(session)
    if session.own_objective is not None:
        _check_objective(session.own_objective, session.compute_loss_func)


def _check_objective(objective: Objective, loss_function: Any) -> None:
    check_overrides(objective, Objective)
    missing = [name for name in ("count", "loss") if getattr(type(objective), name) is getattr(Objective, name)]
    if missing and not set(missing) & set(vars(objective)):
        raise ConfigError(
            f"{type(objective).__name__} has no {' and no '.join(missing)} of its own; an Objective overrides "
            "count(batch) and loss(model, batch, num_items)."
        )
    if loss_function is not None:
        raise ConfigError("Give objective= or compute_loss_func=, not both: each says what is minimised.")


def _check_functions(session: Session) -> None:
    if session.optimizer_cls_and_kwargs is not None and not is_choice(session.optimizer_cls_and_kwargs):
        raise ConfigError(
            f"optimizer_cls_and_kwargs= is {session.optimizer_cls_and_kwargs!r:.80}; (class, keywords) is expected, "
            "such as (torch.optim.SGD, {'lr': 0.1})."
        )
    if session.optimizer_cls_and_kwargs is not None and not callable(session.optimizer_cls_and_kwargs[0]):
        raise ConfigError(
            f"optimizer_cls_and_kwargs= begins with {session.optimizer_cls_and_kwargs[0]!r:.80}; a class is expected "
            "there, such as torch.optim.SGD. Names are given as optim=."
        )
    if session.compute_loss_func is not None:
        check_call(session.compute_loss_func, "compute_loss_func", ("outputs", "labels"), ("num_items_in_batch",))
    if session.compute_metrics is not None:
        more = ("compute_result",) if session.args.batch_eval_metrics else ()
        several = isinstance(session.compute_metrics, Mapping)  # by the evaluation set
        named = session.compute_metrics if several else {"": session.compute_metrics}
        for name, function in named.items():
            check_call(function, f"compute_metrics[{name!r}]" if several else "compute_metrics", ("prediction",), more)
    if session.preprocess_logits_for_metrics is not None:
        check_call(session.preprocess_logits_for_metrics, "preprocess_logits_for_metrics", ("logits", "labels"))
    if session.data_collator is not None:
        check_call(session.data_collator, "data_collator", ("rows",))


def is_choice(value: Any) -> bool:
    """Whether something says of an optimizer what it is made from: a class, or what gives one, and its keywords."""
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], Mapping)


def pair_of(optimizers: Any) -> tuple[Any, Any]:
    """Return the optimizer and the schedule that were given.

    Raises:
        ConfigError: it is no pair of these.
    """
    wanted = "optimizers=(optimizer, lr_scheduler) is expected, either of which may be None"
    if not isinstance(optimizers, tuple | list) or len(optimizers) != 2:
        raise ConfigError(f"optimizers= is {optimizers!r:.80}; {wanted}.")
    optimizer, scheduler = optimizers
    if optimizer is not None and not hasattr(optimizer, "param_groups"):
        raise ConfigError(f"optimizers= begins with {optimizer!r:.80}, which has no param_groups; {wanted}.")
    if hasattr(scheduler, "param_groups"):
        raise ConfigError(
            f"optimizers= ends with an optimizer, {type(scheduler).__name__}, where the schedule is; {wanted}."
        )
    if scheduler is not None and not hasattr(scheduler, "step"):
        raise ConfigError(f"optimizers= ends with {scheduler!r:.80}, which has no step(); {wanted}.")
    return optimizer, scheduler
