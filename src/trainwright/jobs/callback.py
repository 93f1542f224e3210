"""A callback for a Trainer, ours or transformers': progress, metrics and checkpoints go to the job, a wish to stop
comes from it. It knows neither library, so that `jobs` imports none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.jobs.tracking import Tracking

_NOT_METRICS = ("epoch",)


class SilentCallback:
    """Does nothing at every event of both libraries."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    on_init_end = on_train_begin = on_train_end = on_epoch_begin = on_epoch_end = on_step_begin = on_step_end = _nothing
    on_substep_end = on_pre_optimizer_step = on_optimizer_step = on_evaluate = on_predict = _nothing
    on_prediction_step = on_log = on_save = on_push_begin = _nothing


class JobCallback(SilentCallback):
    """Tells a job what its training does.

    Args:
        tracking: the job.
        start, end: the part of the job's progress that the training is, in percent.
    """

    def __init__(self, tracking: Tracking, start: float = 0.0, end: float = 100.0) -> None:
        self.tracking = tracking
        self.start, self.end = start, end
        self._trials = 0
        self._series = ""  # of a trial of a search: the beginning of its metrics' names

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where the run's files are, and at which step it begins."""
        self.tracking.keep("output_dir", str(getattr(args, "output_dir", "") or ""))
        self.tracking.tell_time()
        self._series = ""
        if getattr(state, "is_hyper_param_search", False):
            name = state.trial_name or f"run-{self._trials}"
            self._trials += 1
            self._series = f"{name}/"
            tried = ", ".join(f"{key}={value}" for key, value in (state.trial_params or {}).items())
            self.tracking.event("trial", f"{name}: {tried}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Note progress; save and stop where the job is asked to.

        Of several ranks one alone hears of it, so there the loop does that, after the same step on all of them.
        """
        tracking = self.tracking
        self._progress(state)
        if tracking.stop_requested and not tracking.acted and getattr(args, "world_size", 1) == 1:
            tracking.acted = True
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note progress, also of a run that had nothing left to do."""
        self._progress(state)

    def _progress(self, state: Any) -> None:
        done = state.global_step / max(state.max_steps, 1)
        self.tracking.progress(self.start + (self.end - self.start) * done, state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Note the metrics; those of a search's trials are series of their own."""
        for name, value in (logs or {}).items():
            if name not in _NOT_METRICS and isinstance(value, int | float) and not isinstance(value, bool):
                self.tracking.metric(self._series + metric_name(name), value, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, checkpoint: Any = None, **_: Any) -> None:
        """Note the checkpoint: ours is written in the background, so it may be that of a step before."""
        path = Path(checkpoint or layout.of_step(Path(args.output_dir), state.global_step))
        number = path.name.rpartition("-")[2]
        self.tracking.artifact("checkpoint", str(path), int(number) if number.isdecimal() else None)


def metric_name(name: str) -> str:
    """Return a metric's name as transformers writes it to its boards: train/loss, eval/loss."""
    for kind in ("eval", "test"):
        if name.startswith(f"{kind}_"):
            return f"{kind}/{name[len(kind) + 1 :]}"
    return f"train/{name}"
