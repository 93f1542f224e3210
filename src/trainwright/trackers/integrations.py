"""Trackers that transformers has callbacks for: a Trainer tells these."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from trainwright.trackers.tracker import Told, Tracker

_OF_SAVING = (
    "output_dir", "use_cpu", "run_name", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "eval_strategy", "eval_steps", "save_strategy", "save_steps",
)  # fmt: skip


class Integration(Tracker):
    """A tracker that transformers brings; a loop of one's own does not tell it.

    Args:
        name: that transformers knows it by.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def callback(self) -> Any:
        """Return transformers' callback."""
        return callback_of(self.name)


def callback_of(name: str) -> Any:
    """Return a new callback of transformers' that keeps to the rule of all trackers: what fails costs its log alone.

    Raises:
        ImportError, RuntimeError: its package is not installed.
    """
    from transformers.integrations import get_reporting_integration_callbacks

    callback = get_reporting_integration_callbacks([name])[0]()
    told = Told(callback, name)
    for event in [one for one in dir(callback) if one.startswith("on_") and _does_something(callback, one)]:
        method = getattr(callback, event)
        if event == "on_train_end" and hasattr(callback, "_log_model"):
            method = with_their_arguments(method)
        setattr(callback, event, functools.partial(told.call, method))
    return callback


def _does_something(callback: Any, event: str) -> bool:
    from transformers import TrainerCallback

    return getattr(type(callback), event, None) is not getattr(TrainerCallback, event, None)


def with_their_arguments(at_the_end: Callable[..., Any]) -> Callable[..., Any]:
    """Return `on_train_end` of a callback that logs the model (WANDB_LOG_MODEL), given transformers' arguments.

    It saves the model by a Trainer of transformers, which it makes of the run's arguments.
    """

    @functools.wraps(at_the_end)
    def told(args: Any, *rest: Any, **parts: Any) -> Any:
        return at_the_end(their_arguments(args), *rest, **parts)

    return told


def their_arguments(args: Any) -> Any:
    """Return arguments of transformers' with what saving a model and its best metric need of ours."""
    from transformers import TrainingArguments

    if isinstance(args, TrainingArguments):
        return args
    return TrainingArguments(**{name: getattr(args, name) for name in _OF_SAVING}, report_to="none")
