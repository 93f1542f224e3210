"""What a run says of itself: logs, evaluations during training, the best model, the numbers at the end."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from trainwright.args.signatures import check_returned
from trainwright.errors import ConfigError, did_you_mean
from trainwright.saving import agreement, outcome
from trainwright.session import metric_values
from trainwright.session.meters import averages
from trainwright.session.run import Run
from trainwright.session.session import Session

logger = logging.getLogger("trainwright")


def log_step(run: Run) -> None:
    """Log the mean loss since the last log, the gradient norm and the learning rate; the only place that waits for
    the device."""
    session = run.session
    run.signals.check()
    run.health.settle()
    if session.state.global_step <= run.meter.logged_at:
        return
    steps = session.state.global_step - run.meter.logged_at - run.meter.empty
    total, skipped = run.meter.read(session.strategy.sum_tensor, session.strategy.device)
    logs: dict[str, Any] = {"loss": total / (steps - skipped)} if steps > skipped else {}
    if skipped:
        logs["skipped_steps"] = skipped
    if run.grad_norm is not None:
        logs["grad_norm"] = float(run.grad_norm)
    if run.learning_rate is not None:
        logs["learning_rate"] = float(run.learning_rate)
    logs |= averages(session.strategy.gather_shards(session.records.take()))
    trained = run.timesheet.trained()
    logs |= run.throughput.read(trained)
    if run.told is not None:
        run.told.log(session.state.global_step, run.own_rows, trained)
    run.meter.logged_at = session.state.global_step
    run.symptoms.look(logs)
    session.control.should_log = False
    log(session, logs, run.started)


def log(session: Session, logs: dict[str, Any], started: float) -> None:
    """Call `log`, with the time at which the run began where an override takes it."""
    parameters = inspect.signature(session.hooks.log).parameters
    takes = "start_time" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    session.hooks.log(logs, **({"start_time": started} if takes else {}))


def note(session: Session, message: str) -> None:
    """Write one sentence to the log, on the main process; on a bare script it is printed."""
    if session.strategy.is_main:
        logger.warning(message)


def write_log(session: Session, logs: dict[str, Any]) -> None:
    """Add epoch and step to numbers, keep them in the history and tell the callbacks, in plain types; nothing of a
    loss that is only asked what it is."""
    state = session.state
    if session.is_asked:
        return
    logs["epoch"] = state.epoch
    if session.args.include_num_input_tokens_seen != "no":
        logs["num_input_tokens_seen"] = state.num_input_tokens_seen
    kept = metric_values.fit(session, logs)
    state.log_history.append({**kept, "step": state.global_step})
    if session.run is not None:
        with suppress(TypeError, ValueError, RecursionError):  # what has no form as JSON is told by the save
            session.run.history.keep_up(state.log_history)
    session.fire("log", logs=kept)


def evaluate(run: Run, decides: bool = True) -> None:
    """Evaluate during training. What is measured before anything is trained (`eval_on_start`) decides nothing; later
    it judges a trial, moves a schedule that follows a metric, and tells whether this is the best model."""
    session = run.session
    with run.timesheet.spending("evaluating"):
        metrics = session.hooks.evaluate(ignore_keys=run.ignore_keys_for_eval)
        name = f"{type(session.hooks).__name__}.evaluate"
        check_returned(isinstance(metrics, Mapping), metrics, name, "its metrics, numbers by name")
        metrics = agreement.of_main(session.strategy, metrics)
    run.evaluated = True
    if not decides:
        return
    if session.trial_report is not None:
        session.trial_report(session.state.global_step, metrics)
    if session.hooks.follows_metric:
        session.lr_scheduler.step(chosen_metric(session.args, metrics))
    outcome.collect(run, wait=True)  # the best of one that failed is none
    state = session.state
    before = session.strategy.from_main((state.best_metric, state.best_global_step, state.best_model_checkpoint))
    state.best_metric, state.best_global_step, state.best_model_checkpoint = before
    best = note_best(session, metrics)
    run.best_before = before if best else run.best_before
    if best and session.args.save_strategy != "no":
        outcome.best_is_saved(run)
    if session.args.save_strategy == "best":
        session.control.should_save = best


def metric_name(args: Any) -> str:
    """Return the name of the metric by which the best model is chosen and a schedule moves, as an evaluation has it.

    Raises:
        ConfigError: there is none.
    """
    name = args.metric_for_best_model
    if name is None:
        raise ConfigError(
            "The schedule moves by a metric of the evaluations, and none is named: set metric_for_best_model, such as "
            "'loss'."
        )
    return name if name.startswith("eval_") else f"eval_{name}"


def chosen_metric(args: Any, metrics: dict[str, Any]) -> float:
    """Return the metric that decides which model is best.

    Raises:
        ConfigError: the evaluation does not give it, or it is no number.
    """
    name = metric_name(args)
    if name not in metrics:
        raise ConfigError(
            f"metric_for_best_model='{args.metric_for_best_model}' is not among the metrics of the evaluation."
            f"{did_you_mean(name, metrics)} They are: {', '.join(sorted(metrics))}."
        )
    value = metric_values.plain(metrics[name], name)
    if not isinstance(value, int | float):
        raise ConfigError(
            f"metric_for_best_model='{args.metric_for_best_model}' is a {type(value).__name__}, {value!r}; only a "
            "number tells which model is best."
        )
    return value


def note_best(session: Session, metrics: dict[str, float]) -> bool:
    """Note the best metric so far; return whether this one is it. NaN never is."""
    args, state = session.args, session.state
    if args.metric_for_best_model is None:
        return False
    value = chosen_metric(args, metrics)
    if math.isnan(value):
        session.note(f"{args.metric_for_best_model} is NaN at step {state.global_step}, which is never the best.")
        return False
    if state.best_metric is not None and not math.isnan(state.best_metric):
        better = value > state.best_metric if args.greater_is_better else value < state.best_metric
        if not better:
            return False
    state.best_metric = value
    if args.save_strategy != "no":
        state.best_global_step = state.global_step
    return True


def speed(split: str, started: float, samples: float, steps: float) -> dict[str, float]:
    """Return the run time in seconds and the samples and steps per second; `started` is of `time.monotonic`."""
    seconds = max(time.monotonic() - started, 1e-9)
    return {
        f"{split}_runtime": round(seconds, 4),
        f"{split}_samples_per_second": round(samples / seconds, 3),
        f"{split}_steps_per_second": round(steps / seconds, 3),
    }


def training_metrics(run: Run) -> dict[str, float]:
    """Return the numbers of the whole call of `train`."""
    session = run.session
    run.meter.read(session.strategy.sum_tensor, session.strategy.device)
    metrics = speed("train", run.began, run.rows, session.state.global_step - run.first_step)
    without = run.meter.skipped_before + run.meter.empty_before
    good = session.state.global_step - without - run.meter.first_step
    loss = run.meter.logged / good if good else math.nan
    return {**metrics, "total_flos": session.state.total_flos, "train_loss": loss}
