"""Experiment trackers: transformers' own callbacks, by the names of `report_to`."""

from __future__ import annotations

from typing import Any

from trainwright.callbacks import job
from trainwright.errors import ConfigError

_OF_SAVING = (
    "output_dir", "use_cpu", "run_name", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "eval_strategy", "eval_steps", "save_strategy", "save_steps",
)  # fmt: skip


def tracker_callbacks(report_to: list[str]) -> list[Any]:
    """Return transformers' callback for every tracker that is asked for; none are asked for by default.

    Raises:
        ConfigError: the tracker's package is not installed.
    """
    report_to = [name for name in report_to if name != job.NAME]
    if not report_to:
        return []
    from transformers.integrations import get_reporting_integration_callbacks

    callbacks = []
    for name, kind in zip(report_to, get_reporting_integration_callbacks(report_to), strict=True):
        try:
            callbacks.append(with_their_arguments(kind()))
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"report_to='{name}': its package is not installed ({error}). Install it with: pip install {name}."
            ) from error
    return callbacks


def with_their_arguments(callback: Any) -> Any:
    """Return a tracker's callback; one that logs the model (WANDB_LOG_MODEL) gets transformers' arguments at the end.

    It saves the model by a Trainer of transformers, which it makes of the run's arguments.
    """
    if hasattr(callback, "_log_model"):
        at_the_end = callback.on_train_end
        callback.on_train_end = lambda args, *rest, **parts: at_the_end(their_arguments(args), *rest, **parts)
    return callback


def their_arguments(args: Any) -> Any:
    """Return arguments of transformers' with what saving a model and its best metric need of ours."""
    from transformers import TrainingArguments

    if isinstance(args, TrainingArguments):
        return args
    return TrainingArguments(**{name: getattr(args, name) for name in _OF_SAVING}, report_to="none")
